"""What ``extract`` returns of a transformers model saves itself, whoever asks it to."""

from __future__ import annotations

import copy
import functools
import gc
import io
import json
import weakref

import pytest
import torch
import transformers
from io_helpers import result, survivors_of
from torch import nn

import natsel
from natsel_bench.zoo import ARCHITECTURES, build_architecture

# T5 is saved by the library's method in no other way, and slow to take apart.
NAMES = [name for name in ARCHITECTURES if name.startswith("hf-") and name != "hf-t5"]
SIZES = {
    **{"vocab_size": 100, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 96, "max_position_embeddings": 40},
}
OTHERS = {
    "qwen3": ("Qwen3ForCausalLM", {**SIZES, "num_key_value_heads": 2, "head_dim": 12}),
    "gemma": ("GemmaForCausalLM", {**SIZES, "num_key_value_heads": 2, "head_dim": 12}),
    "gpt-neox": ("GPTNeoXForCausalLM", SIZES),
    "roberta": ("RobertaForSequenceClassification", SIZES),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        {
            **{**SIZES, "num_key_value_heads": 2, "head_dim": 12, "num_experts": 4},
            **{"num_experts_per_tok": 2, "moe_intermediate_size": 64},
        },
    ),
}


@functools.cache
def make(name):
    """Build a model of the library from its configuration, with inputs; no test changes it."""
    if name.startswith("hf-"):
        return build_architecture(name)
    kind, sizes = OTHERS[name]
    kind = getattr(transformers, kind)
    torch.manual_seed(0)
    return kind(kind.config_class(**sizes)).eval(), (torch.randint(4, 100, (2, 7)),)


@functools.cache
def found_in(model, *inputs, residual=False):
    return natsel.discover(model, inputs, residual=residual)


def small_of(model, inputs, cut="even", **options):
    communities = found_in(model, *inputs, **options)
    return natsel.extract(model, survivors_of(communities, cut), verify=False).eval()


def read(folder, kind):
    """Read a folder as a user would; what is not plain needs the flag, and says so without."""
    config = json.loads((folder / "config.json").read_text())
    served = config.get("auto_map", {}).items()
    options = {"output_loading_info": True}
    if served:
        with pytest.raises(RuntimeError, match="mismatch"):
            kind.from_pretrained(folder)
        auto = next(a for a, c in served if c.endswith(f".Natsel{kind.__name__}"))
        kind = getattr(transformers, auto)
        options["trust_remote_code"] = True
    model, told = kind.from_pretrained(folder, **options)
    assert not any(told.values()), told
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # a mapped file starts anywhere, kernels round by that
    return model.eval()


def equal(first, second, inputs):
    return torch.equal(result(first, inputs), result(second, inputs))


@pytest.mark.parametrize("cut", ["even", "uneven"])
@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_save_pretrained_writes_what_loads(tmp_path, name, cut):
    model, inputs = make(name)
    before = model.config.to_json_string(use_diff=False)
    small = small_of(model, inputs, cut)
    small.save_pretrained(tmp_path / "one")
    loaded = read(tmp_path / "one", type(model))
    assert equal(loaded, small, inputs)
    assert model.config.to_json_string(use_diff=False) == before
    loaded.save_pretrained(tmp_path / "two")  # as after fine-tuning
    assert equal(read(tmp_path / "two", type(model)), small, inputs)
    again = natsel.load(natsel.save(loaded, tmp_path / "three"))
    assert equal(again, small, inputs)


@pytest.mark.parametrize("name", ["hf-llama", "hf-vit", "hf-mixtral", "qwen3", "gemma"])
def test_the_configuration_of_the_small_model_is_the_small_one(name):
    model, inputs = make(name)
    small = small_of(model, inputs)
    assert small.config.num_attention_heads == model.config.num_attention_heads // 2
    assert small.config.intermediate_size == model.config.intermediate_size // 2
    twin = type(model)(small.config)
    assert {n: p.shape for n, p in twin.named_parameters()} == {
        n: p.shape for n, p in small.named_parameters()
    }
    twin.load_state_dict(small.state_dict())
    assert equal(twin.eval(), small, inputs)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("hf-llama", {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48}),
        ("hf-vit", {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}),
        ("hf-bert", {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}),
        ("hf-gpt2", {"n_embd": 24, "n_head": 2, "n_inner": 48}),
        ("hf-mixtral", {"hidden_size": 24, "num_local_experts": 3, "intermediate_size": 32}),
        ("gpt-neox", {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}),
        ("qwen3", {"hidden_size": 24, "num_key_value_heads": 1, "head_dim": 12}),
    ],
)
def test_width_heads_and_neurons_together_are_plain(tmp_path, name, sizes):
    """Several numbers must change at once: one alone gives heads of another width."""
    model, inputs = make(name)
    small = small_of(model, inputs, residual=True)
    assert {key: getattr(small.config, key) for key in sizes} == sizes
    small.save_pretrained(tmp_path)
    assert sorted(p.suffix for p in tmp_path.iterdir()) in (
        [".json", ".json", ".safetensors"],
        [".json", ".safetensors"],
    )
    assert equal(read(tmp_path, type(model)), small, inputs)


def test_a_width_that_forward_scales_by_is_not_stated_as_another(tmp_path):
    """Gemma multiplies by the root of its width, and the small model by that of the dense one."""
    model, inputs = make("gemma")
    communities = found_in(model, *inputs, residual=True)
    masks = {n: torch.arange(c.size) % 4 > 0 for n, c in communities.items() if c.kind == "channel"}
    small = natsel.extract(model, masks, communities=communities).eval()
    assert small.config.hidden_size == 48
    small.save_pretrained(tmp_path)
    assert equal(read(tmp_path, type(model)), small, inputs)


@pytest.mark.parametrize("cut", ["even", "uneven"])
def test_copies_and_wrappers_save_the_same(tmp_path, cut):
    model, inputs = make("hf-llama")
    small = small_of(model, inputs, cut)
    kept = io.BytesIO()
    torch.save(small, kept)
    kept.seek(0)
    copies = {
        "deep": copy.deepcopy(small),
        "shallow": copy.copy(small),
        "compiled": torch.compile(small),
        "unpickled": torch.load(kept, weights_only=False),
        "parallel": nn.DataParallel(small).module,
    }
    for name, one in copies.items():
        one.save_pretrained(tmp_path / name)
        assert equal(read(tmp_path / name, type(model)), small, inputs), name


def test_a_copy_saves_its_own_weights(tmp_path):
    model, inputs = make("hf-llama")
    small = small_of(model, inputs)
    trained = copy.deepcopy(small)
    with torch.no_grad():
        trained.lm_head.weight.add_(1)
    trained.save_pretrained(tmp_path)
    loaded = read(tmp_path, type(model))
    assert equal(loaded, trained, inputs)
    assert not equal(loaded, small, inputs)


def test_nothing_holds_a_small_model_that_nobody_uses():
    small = small_of(*make("hf-llama"))
    gone = weakref.ref(small)
    gc.disable()
    try:
        del small
        assert gone() is None
    finally:
        gc.enable()


def test_models_that_lost_nothing_save_as_they_did(tmp_path):
    model, inputs = make("hf-llama")
    model.save_pretrained(tmp_path / "before")
    small_of(model, inputs)
    model.save_pretrained(tmp_path / "after")
    files = [sorted(p.iterdir()) for p in (tmp_path / "before", tmp_path / "after")]
    assert [p.name for p in files[0]] == [p.name for p in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


@pytest.mark.parametrize("cut", ["even", "uneven"])
def test_the_base_model_inside_saves_itself(tmp_path, cut):
    model, inputs = make("hf-llama")
    small = small_of(model, inputs, cut)
    small.model.save_pretrained(tmp_path)
    loaded = read(tmp_path, type(model.model))
    assert equal(loaded, small.model, inputs)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = build_architecture("hf-vit")[0]

    def forward(self, x):
        return self.inner(x).logits * 2


@pytest.mark.parametrize("cut", ["even", "uneven"])
def test_a_model_inside_of_another_saves_itself(tmp_path, cut):
    model, inputs = Wrapped().eval(), make("hf-vit")[1]
    small = small_of(model, inputs, cut)
    small.inner.save_pretrained(tmp_path)
    assert equal(read(tmp_path, type(model.inner)), small.inner, inputs)


class Derived(transformers.LlamaForCausalLM):
    pass


def test_a_class_of_the_users_own(tmp_path):
    model = Derived(make("hf-llama")[0].config).eval()
    inputs = make("hf-llama")[1]
    small = small_of(model, inputs)
    small.save_pretrained(tmp_path / "even")
    assert equal(read(tmp_path / "even", Derived), small, inputs)
    uneven = small_of(model, inputs, "uneven")
    with pytest.warns(UserWarning, match="no configuration of a Derived"):
        uneven.save_pretrained(tmp_path / "uneven")
    with pytest.raises(RuntimeError, match="mismatch"):
        Derived.from_pretrained(tmp_path / "uneven")


def test_shards_and_what_is_sent_to_the_hub(tmp_path, monkeypatch):
    model, inputs = make("hf-llama")
    small = small_of(model, inputs, "uneven")
    small.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert equal(read(tmp_path / "shards", type(model)), small, inputs)

    sent = {}

    class Hub:
        repo_id = "someone/small"

        def create_repo(self, *_, **__):
            return self

        def file_exists(self, *_, **__):
            return False

        def upload_folder(self, *, repo_id, folder_path, **_):
            assert equal(read(folder_path, type(model)), small, inputs)
            sent[repo_id] = sorted(p.name for p in folder_path.iterdir())

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    small.push_to_hub("small")
    assert "modeling_natsel.py" in sent.pop("someone/small")
    small.save_pretrained(tmp_path / "pushed", push_to_hub=True, repo_id="small")
    assert "modeling_natsel.py" in sent["someone/small"]


def test_saving_over_what_natsel_saved_leaves_no_stale_seal(tmp_path):
    model, inputs = make("hf-llama")
    small = small_of(model, inputs)
    natsel.save(small, tmp_path)
    with torch.no_grad():
        small.lm_head.weight.mul_(2)
    small.save_pretrained(tmp_path)
    assert equal(natsel.open_model(tmp_path).model, small, inputs)


@pytest.mark.parametrize("cut", ["even", "uneven"])
def test_a_checkpoint_of_the_trainer_loads(tmp_path, cut):
    pytest.importorskip("accelerate")
    model, inputs = make("hf-llama")
    small = small_of(model, inputs, cut)
    tokens = inputs[0][0]
    trainer = transformers.Trainer(
        model=small,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=2,
            save_steps=1,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=[{"input_ids": tokens, "labels": tokens}] * 4,
    )
    before = result(small.eval(), inputs)
    trainer.train()
    trained = result(small.eval(), inputs)
    assert not torch.equal(before, trained)
    last = read(tmp_path / "checkpoint-2", type(model))
    assert torch.equal(result(last, inputs), trained)
    first = read(tmp_path / "checkpoint-1", type(model))
    assert not torch.equal(result(first, inputs), trained)
    trainer.save_model(str(tmp_path / "final"))
    assert equal(read(tmp_path / "final", type(model)), small, inputs)


@pytest.mark.parametrize("cut", ["even", "uneven"])
def test_what_was_merged_from_adapters_is_saved_again(tmp_path, cut):
    peft = pytest.importorskip("peft")
    model, inputs = make("hf-llama")
    natsel.save(small_of(model, inputs, cut), tmp_path / "small")
    for i, start in enumerate(
        (
            natsel.load(tmp_path / "small"),
            read(tmp_path / "small", type(model)),
            small_of(model, inputs, cut),
        )
    ):
        adapted = peft.get_peft_model(start, peft.LoraConfig(r=4, target_modules=["q_proj"]))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter)
        merged = adapted.merge_and_unload().eval()
        again = natsel.load(natsel.save(merged, tmp_path / f"{i}-natsel"))
        assert equal(again, merged, inputs)
        merged.save_pretrained(tmp_path / f"{i}-library")
        assert equal(read(tmp_path / f"{i}-library", type(model)), merged, inputs)
        smaller = small_of(merged, inputs, "even")
        smaller.save_pretrained(tmp_path / f"{i}-smaller")
        assert equal(read(tmp_path / f"{i}-smaller", type(model)), smaller, inputs)


@pytest.mark.parametrize("cuts", [("even", "uneven"), ("uneven", "even"), ("uneven", "neurons")])
def test_cut_twice(tmp_path, cuts):
    for name in ("hf-llama", "hf-bert"):
        model, inputs = make(name)
        small_of(model, inputs, cuts[0]).save_pretrained(tmp_path / name)
        for i, start in enumerate(
            (small_of(model, inputs, cuts[0]), read(tmp_path / name, type(model)))
        ):
            communities = natsel.discover(start, inputs)
            masks = dict(survivors_of(communities, "even", seed=2))
            if cuts[1] == "neurons":  # the numbers of heads are left from the first cut
                masks = {n: m for n, m in masks.items() if communities[n].kind == "neuron"}
            second = natsel.extract(start, masks, communities=communities).eval()
            folder = tmp_path / f"{name}-{i}"
            assert equal(natsel.load(natsel.save(second, folder)), second, inputs)
            second.save_pretrained(tmp_path / f"{name}-{i}-library")
            loaded = read(tmp_path / f"{name}-{i}-library", type(model))
            assert equal(loaded, second, inputs)


def test_compressed_rows_are_saved_too(tmp_path, monkeypatch):
    from natsel.extraction import unstructured

    monkeypatch.setattr(unstructured, "is_gain", lambda *_: True)
    model, inputs = make("hf-llama")
    weights = {n: p for n, p in model.named_parameters() if "down_proj" in n}
    masks = {n: p.abs() > p.abs().median() for n, p in weights.items()}
    small = natsel.extract(model, masks, format="csr").eval()
    assert natsel.conversion_of(small).converted
    small.save_pretrained(tmp_path)
    assert equal(read(tmp_path, type(model)), small, inputs)
    with torch.no_grad():
        small.lm_head.weight.mul_(2)
    again = natsel.load(natsel.save(small, tmp_path / "natsel"))
    assert equal(again, small, inputs)


def test_a_backbone_inside_keeps_its_own_attention(tmp_path):
    """A ResNet has no attention of the kind that the rest uses; its frozen norms have buffers."""
    kind = transformers.DetrForObjectDetection
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[16, 16],
        depths=[1, 1],
        layer_type="bottleneck",
        out_features=["stage2"],
    )
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "num_queries": 5, "num_labels": 3}
    parts = ("encoder", "decoder")
    sizes |= {f"{p}_attention_heads": 4 for p in parts} | {f"{p}_ffn_dim": 64 for p in parts}
    config = kind.config_class(
        use_timm_backbone=False, backbone_config=backbone, backbone=None, d_model=32, **sizes
    )
    torch.manual_seed(0)
    model, inputs = kind(config).eval(), (torch.randn(2, 3, 32, 32),)
    communities = natsel.discover(model, inputs, proof=False)
    masks = {
        n: torch.arange(c.size) % 2 == 0 for n, c in communities.items() if n.endswith("fc1")
    } | {n: torch.arange(c.size) > 0 for n, c in communities.items() if "backbone" in n}
    assert len(masks) > 3
    small = natsel.extract(model, masks, communities=communities).eval()
    assert small.config.backbone_config._attn_implementation == "eager"
    loaded = natsel.load(natsel.save(small, tmp_path / "natsel"))
    assert loaded.config._attn_implementation == small.config._attn_implementation
    assert equal(loaded, small, inputs)
    small.save_pretrained(tmp_path / "library")
    assert equal(read(tmp_path / "library", kind), small, inputs)
