"""What a pruned language model generates is the same before it is saved and after."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from language_helpers import FAMILIES, dense_model, ids, tokenizer_of

import natsel


def generated(model, inputs):
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # a mapped file starts anywhere, kernels round by that
    options = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 2, "eos_token_id": None}
    mask = torch.ones_like(inputs)
    cached = model.generate(inputs, attention_mask=mask, use_cache=True, **options)
    assert torch.equal(
        cached, model.generate(inputs, attention_mask=mask, use_cache=False, **options)
    )
    return cached


def pruned(family, uniform):
    model = dense_model(family)
    communities = natsel.discover(model, {"input_ids": ids()})
    generator = torch.Generator().manual_seed(1)
    scores = {  # on scales of their own: the widths of layers part where they may
        name: torch.rand(c.size, generator=generator) * 3**i
        for i, (name, c) in enumerate(communities.items())
    }
    survivors = natsel.select(
        scores,
        natsel.Parameters(0.8),
        communities=communities,
        scope="global",
        normalize="mean" if not uniform else "rank",
        uniform=uniform,
        multiple_of=8 if uniform else 1,
        # GPT-2 computes the width of its heads from the residual width: it cannot have fewer.
        exclude="*.attn" if uniform and family == "gpt2" else None,
    )
    return natsel.extract(model, survivors).eval(), survivors


@pytest.mark.parametrize("uniform", [True, False], ids=["uniform", "uneven"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_generates_the_same(tmp_path, family, uniform):
    small, survivors = pruned(family, uniform)
    wanted = generated(small, ids())
    assert len(wanted.unique()) > 4
    natsel.save(small, tmp_path)
    assert torch.equal(generated(natsel.load(tmp_path), ids()), wanted)
    config = json.loads((tmp_path / "config.json").read_text())
    by_kind = {}
    for name, mask in survivors.items():
        by_kind.setdefault(survivors.communities[name].kind, set()).add(int(mask.sum()))
    auto = transformers.AutoModelForCausalLM
    if uniform:
        assert all(len(counts) == 1 for counts in by_kind.values())
        assert by_kind["neuron"].pop() % 8 == 0
        assert not {"auto_map", "natsel", "per_layer_config"} & set(config)
        assert not list(tmp_path.glob("*.py"))
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded).__module__.startswith("transformers.models.")
    else:
        assert any(len(counts) > 1 for counts in by_kind.values())
        with pytest.raises(RuntimeError, match="mismatch"):
            getattr(transformers, FAMILIES[family][0]).from_pretrained(tmp_path)
        loaded = auto.from_pretrained(tmp_path, trust_remote_code=True)
    assert torch.equal(generated(loaded, ids()), wanted)


def test_plain_numbers(tmp_path):
    small, survivors = pruned("llama", uniform=True)
    natsel.save(small, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    kept = {survivors.communities[n].kind: int(m.sum()) for n, m in survivors.items()}
    assert config["intermediate_size"] == kept["neuron"] < 48
    assert config["num_key_value_heads"] == kept["head"]
    assert config["num_attention_heads"] == 2 * kept["head"]
    assert config["head_dim"] == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_zeros_in_dense_weights_load_anywhere(tmp_path, family):
    model = dense_model(family)
    name = "transformer.h.0.mlp.c_fc" if family == "gpt2" else "model.layers.0.mlp.up_proj"
    weight = model.get_submodule(name).weight
    kept = natsel.select({name: weight.detach().abs()}, natsel.Sparsity(0.5))[name]
    with torch.no_grad():
        weight.mul_(kept)
    wanted = generated(model, ids())
    natsel.save(model, tmp_path / "one")
    model.save_pretrained(tmp_path / "two")
    for folder in ("one", "two"):
        assert not list((tmp_path / folder).glob("*.py"))
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        assert torch.equal(generated(loaded, ids()), wanted)
        assert (loaded.get_submodule(name).weight == 0).float().mean() > 0.49


def test_the_pipeline_reads_the_folder(tmp_path):
    for uniform in (True, False):
        small, _ = pruned("llama", uniform)
        folder = natsel.save(small, tmp_path / str(uniform), tokenizer=tokenizer_of())
        options = {} if uniform else {"trust_remote_code": True}
        pipe = transformers.pipeline("text-generation", model=str(folder), **options)
        told = pipe("w5 w6 w7", max_new_tokens=5, do_sample=False)[0]["generated_text"]
        assert told.startswith("w5 w6 w7")
        assert len(told) > len("w5 w6 w7")


def test_heads_that_a_class_cannot_say_need_the_code(tmp_path):
    model = dense_model("gpt2")
    communities = natsel.discover(model, {"input_ids": ids()})
    scores = natsel.score(communities, "magnitude")
    small = natsel.extract(model, natsel.select(scores, natsel.Parameters(0.8), uniform=True))
    natsel.save(small, tmp_path)
    assert "auto_map" in json.loads((tmp_path / "config.json").read_text())
    auto = transformers.AutoModelForCausalLM
    loaded = auto.from_pretrained(tmp_path, trust_remote_code=True)
    assert torch.equal(generated(loaded, ids()), generated(small, ids()))
