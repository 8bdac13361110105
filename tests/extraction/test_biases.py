"""Biases where a configuration can say them: the same function, and compensation fills them."""

from __future__ import annotations

import pytest
import torch

import natsel
from language import llama
from natsel.extraction.biases import with_biases

hf = pytest.importorskip("transformers")
IDS = torch.randint(62, (12, 16), generator=torch.Generator().manual_seed(1))
DATA = [{"input_ids": IDS}]


def test_flags_of_the_configuration_put_them_where_the_class_does():
    model = llama()
    found, flags = with_biases(model)
    assert flags == ("attention_bias", "mlp_bias")
    assert torch.equal(found(input_ids=IDS).logits, model(input_ids=IDS).logits)
    made = type(model)(found.config)
    assert set(found.state_dict()) == set(made.state_dict())
    assert (model.config.mlp_bias, model.model.layers[0].mlp.down_proj.bias) == (False, None)


def test_what_has_no_flag_is_refused():
    config = hf.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    with pytest.raises(ValueError, match=r"^model='GPT2LMHeadModel' .* \(mlp_bias\)"):
        with_biases(hf.GPT2LMHeadModel(config))
    with pytest.raises(ValueError, match=r"^model='Linear' "):
        with_biases(torch.nn.Linear(2, 2))


def test_compensation_fills_them_and_the_configuration_says_them(tmp_path):
    model = llama()
    options = {"scorer": "wanda", "data": DATA, "include": "*mlp*", "uniform": True}
    pruned = natsel.prune(model, {"input_ids": IDS[:1]}, natsel.Sparsity(0.5), bias=True, **options)
    layers = pruned.small.model.layers
    assert all(bool((layer.mlp.down_proj.bias != 0).any()) for layer in layers)
    assert all(bool((layer.mlp.up_proj.bias == 0).all()) for layer in layers)
    natsel.save(pruned.small, tmp_path)
    theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (theirs.config.mlp_bias, theirs.config.intermediate_size) == (True, 12)
    assert torch.equal(theirs(input_ids=IDS).logits, pruned.small(input_ids=IDS).logits)
    assert torch.equal(
        natsel.load(tmp_path)(input_ids=IDS).logits, pruned.small(input_ids=IDS).logits
    )
    plain = natsel.prune(model, {"input_ids": IDS[:1]}, natsel.Sparsity(0.5), **options)
    assert plain.small.model.layers[0].mlp.down_proj.bias is None


def test_without_compensation_there_is_nothing_to_fill_them():
    with pytest.raises(ValueError, match=r"^bias=True, data=None, compensate=True "):
        natsel.prune(llama(), {"input_ids": IDS[:1]}, natsel.Sparsity(0.5), bias=True)
