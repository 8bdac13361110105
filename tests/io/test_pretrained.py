"""``from_pretrained`` reads what was saved, or says that it cannot; it never makes weights up."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from io_helpers import result, survivors_of
from torch import nn

import natsel
from natsel.integrations.transformers import class_of
from natsel_bench.zoo import ARCHITECTURES, build_architecture

NAMES = [name for name in ARCHITECTURES if name.startswith("hf-")]


def aligned(model):
    """A memory-mapped file starts anywhere, and kernels round by where a tensor starts."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def read(kind, folder, **options):
    model, told = kind.from_pretrained(folder, output_loading_info=True, **options)
    return aligned(model), {name for name, keys in told.items() if keys}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", ["even", "uneven"])
def test_it_reads_the_folder(cases, name, cut):
    if (name, cut) not in cases:
        pytest.skip("nothing in it can be removed")
    case = cases[name, cut]
    config = config_of(case.folder)
    wanted = result(case.small, case.inputs)
    if "auto_map" not in config:
        assert config["architectures"] == [type(case.small).__name__]
        assert not list(case.folder.glob("*.py"))
        model, wrong = read(type(case.small), case.folder)
        assert not wrong
        assert torch.equal(result(model, case.inputs), wanted)
        return
    kind = next(
        getattr(transformers, auto)
        for auto, served in config["auto_map"].items()
        if served.endswith(f".Natsel{type(case.small).__name__}")
    )
    model, wrong = read(kind, case.folder, trust_remote_code=True)
    assert not wrong
    assert isinstance(model, type(case.small))
    assert torch.equal(result(model, case.inputs), wanted)
    for plain in (kind, type(case.small), transformers.AutoModel):
        with pytest.raises(RuntimeError, match="mismatch"):
            plain.from_pretrained(case.folder)


def test_the_code_beside_needs_no_natsel(cases):
    for (name, _), case in cases.items():
        if name.startswith("hf-"):
            for code in case.folder.glob("*.py"):
                imported = [x for x in code.read_text().splitlines() if "import " in x]
                assert imported
                assert not any("natsel" in line for line in imported)


@pytest.mark.parametrize("name", ["hf-vit", "hf-llama", "hf-mixtral"])
def test_one_width_in_all_layers_is_a_plain_configuration(cases, name):
    case = cases[name, "even"]
    config, dense = config_of(case.folder), case.dense.config
    assert "auto_map" not in config
    assert config["num_attention_heads"] == dense.num_attention_heads // 2
    if name != "hf-vit":
        assert config["num_key_value_heads"] == dense.num_key_value_heads // 2
    width = case.dense.config.hidden_size // dense.num_attention_heads
    assert config["head_dim"] == width
    assert config["hidden_size"] == dense.hidden_size


def test_widths_that_no_configuration_can_state_come_with_code(cases):
    for name in ("hf-vit", "hf-bert", "hf-llama"):
        assert config_of(cases[name, "uneven"].folder)["auto_map"]
    # The heads of a BERT are as wide as hidden_size / num_attention_heads.
    assert config_of(cases["hf-bert", "even"].folder)["auto_map"]


def test_only_the_hidden_neurons_of_bert_need_no_code(cases, tmp_path):
    model, inputs = build_architecture("hf-bert")
    communities = natsel.discover(model, inputs)
    masks = {
        name: torch.arange(c.size) % 2 == 0
        for name, c in communities.items()
        if name.endswith("intermediate.dense")
    }
    small = natsel.extract(model, masks, communities=communities).eval()
    config = config_of(natsel.save(small, tmp_path / "small"))
    assert (config["intermediate_size"], config["num_attention_heads"]) == (48, 4)
    loaded, wrong = read(type(model), tmp_path / "small")
    assert not wrong
    assert torch.equal(result(loaded, inputs), result(small, inputs))


def test_heads_are_not_taken_for_narrower_heads(cases):
    """Four heads of 12 that become two, and four of 6, have the same shapes in a ViT."""
    numbers = config_of(cases["hf-vit", "even"].folder)
    assert (numbers["num_attention_heads"], numbers["head_dim"]) == (2, 12)


def test_the_base_model_inside_is_read_too(cases):
    case = cases["hf-llama", "uneven"]
    model, _ = read(transformers.AutoModel, case.folder, trust_remote_code=True)
    inputs = case.inputs
    assert torch.equal(result(model, inputs), result(aligned(case.small.model), inputs))


def test_a_model_read_with_code_is_saved_again_as_its_class(cases, tmp_path):
    case = cases["hf-llama", "uneven"]
    kind = transformers.AutoModelForCausalLM
    model = aligned(kind.from_pretrained(case.folder, trust_remote_code=True))
    assert class_of(model) is transformers.LlamaForCausalLM
    communities = natsel.discover(model, case.inputs)
    smaller = natsel.extract(model, survivors_of(communities, "even")).eval()
    loaded = natsel.load(natsel.save(smaller, tmp_path / "smaller"))
    assert type(loaded) is transformers.LlamaForCausalLM
    assert torch.equal(result(loaded, case.inputs), result(smaller, case.inputs))


def test_a_model_that_was_loaded_is_cut_again(cases, tmp_path):
    case = cases["hf-vit", "uneven"]
    first = natsel.load(case.folder)
    communities = natsel.discover(first, case.inputs)
    second = natsel.extract(first, survivors_of(communities, "even", seed=2)).eval()
    loaded = natsel.load(natsel.save(second, tmp_path / "second"))
    assert torch.equal(result(loaded, case.inputs), result(second, case.inputs))


def test_the_settings_for_generation_are_kept(tmp_path):
    model, inputs = build_architecture("hf-llama")
    model.generation_config.max_new_tokens = 5
    model.generation_config.temperature = 0.25
    communities = natsel.discover(model, inputs)
    small = natsel.extract(model, survivors_of(communities, "even"))
    for loaded in (
        natsel.load(natsel.save(small, tmp_path)),
        type(model).from_pretrained(tmp_path),
    ):
        settings = loaded.generation_config
        assert (settings.max_new_tokens, settings.temperature) == (5, 0.25)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_precision_is_kept(cases, tmp_path, dtype):
    import copy

    small = copy.deepcopy(cases["hf-llama", "even"].small).to(dtype)
    inputs = cases["hf-llama", "even"].inputs
    loaded = natsel.load(natsel.save(small, tmp_path))
    assert {b.dtype for b in loaded.buffers()} == {b.dtype for b in small.buffers()}
    assert torch.equal(result(loaded, inputs), result(small, inputs))
    assert config_of(tmp_path)["dtype"] == str(dtype).removeprefix("torch.")
    assert type(small).from_pretrained(tmp_path).dtype == dtype


def test_the_implementation_of_attention_is_kept(tmp_path):
    model, inputs = build_architecture("hf-vit")
    model.set_attn_implementation("eager")
    communities = natsel.discover(model, inputs)
    small = natsel.extract(model, survivors_of(communities, "uneven")).eval()
    loaded = natsel.load(natsel.save(small, tmp_path))
    assert loaded.config._attn_implementation == "eager"
    assert torch.equal(result(loaded, inputs), result(small, inputs))


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = build_architecture("hf-vit")[0]

    def forward(self, x):
        return self.inner(x).logits * 2


class Derived(transformers.ViTForImageClassification):
    pass


def derived():
    return Derived(build_architecture("hf-vit")[0].config).eval()


@pytest.mark.parametrize("make", [Wrapped, derived])
def test_a_class_that_is_not_in_the_library_is_named_by_the_user(cases, tmp_path, make):
    model, inputs = make().eval(), cases["hf-vit", "even"].inputs
    communities = natsel.discover(model, inputs)
    small = natsel.extract(model, survivors_of(communities, "uneven")).eval()
    natsel.save(small, tmp_path, constructor=((), {}))
    assert not (tmp_path / "config.json").exists()
    with pytest.raises(ValueError, match=type(model).__name__):
        natsel.load(tmp_path)
    for loaded in (natsel.load(tmp_path, model=model), natsel.load(tmp_path, constructor=make)):
        assert torch.equal(result(loaded, inputs), result(small, inputs))


def test_weights_that_the_user_tied_are_one_when_loaded(tmp_path):
    model, inputs = build_architecture("hf-llama")
    model.lm_head.weight = model.model.embed_tokens.weight
    communities = natsel.discover(model, inputs)
    small = natsel.extract(model, survivors_of(communities, "even")).eval()
    loaded = natsel.load(natsel.save(small, tmp_path))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(result(loaded, inputs), result(small, inputs))
    read_back, wrong = read(type(model), tmp_path)
    assert not wrong
    assert torch.equal(result(read_back, inputs), result(small, inputs))


@pytest.mark.parametrize("kept", [[33, 33], [33, 30]])
def test_experts_of_odd_widths_run_one_by_one(tmp_path, kept):
    """The fused product of all experts takes whole blocks of 16 bytes only."""
    model, inputs = build_architecture("hf-mixtral")
    communities = natsel.discover(model, inputs)
    experts = [name for name, c in communities.items() if name.endswith("mlp.experts")]
    masks = {name: torch.arange(64) < width for name, width in zip(experts, kept, strict=True)}
    small = natsel.extract(model, masks, communities=communities).eval()
    loaded = natsel.load(natsel.save(small, tmp_path))
    assert torch.equal(result(loaded, inputs), result(small, inputs))
    kind = transformers.AutoModelForCausalLM
    plain, wrong = read(kind, tmp_path, trust_remote_code=kept[0] != kept[1])
    assert not wrong
    assert torch.equal(result(plain, inputs), result(small, inputs))
    assert ("auto_map" in config_of(tmp_path)) is (kept[0] != kept[1])
