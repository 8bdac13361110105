"""Dimensions inside heads: what goes, what the masked model is, and what follows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from exactness import assert_exact, found, reasons
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import natsel
from natsel.extraction.aligning import align
from natsel.models import ViT, build


def _vit() -> nn.Module:
    torch.manual_seed(0)
    return ViT((1, 8, 8), 3, dim=12, depth=1, heads=3, patch=4)


def _images(count: int = 2) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Apart(nn.Module):
    """Queries and keys of another width than values, with a scale that is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.narrow, self.wide, self.scale = 2, 3, 5, 3**-0.5
        self.q, self.k, self.v = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 10)
        self.out = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k = (f(x).view(b, t, self.heads, self.narrow).transpose(1, 2) for f in (self.q, self.k))
        v = self.v(x).view(b, t, self.heads, self.wide).transpose(1, 2)
        y = torch.softmax(q @ k.transpose(-2, -1) * self.scale, -1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


def _llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=24, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=32,
        bos_token_id=1, eos_token_id=31,
    )  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


def test_dimensions_of_a_vit_are_all_of_a_head_at_once() -> None:
    communities = found(_vit(), _images(), dims=True)
    (mine,) = [c for c in communities.values() if "attention" in c.name]
    assert (mine.kind, mine.size) == ("dimension", 4), reasons(communities)
    assert_exact(communities, num_random=2)


def test_masking_a_dimension_is_zeroing_its_rows_and_columns() -> None:
    """Written out here: q and k rows, and the columns that read v, are zero in every head."""
    model = _vit().double().eval()
    communities = natsel.discover(model, _images().double(), dims=True)
    (name,) = [n for n in communities if "attention" in n]
    masked = copy.deepcopy(model)
    attention = masked.blocks[0].attention
    gone = torch.tensor([4 * head + 2 for head in range(3)])
    for part in (gone, gone + 12):
        attention.qkv.weight.data[part] = 0
        attention.qkv.bias.data[part] = 0
    attention.proj.weight.data[:, gone] = 0
    small = natsel.extract(
        model, {name: torch.tensor([True, True, False, True])}, communities=communities
    )
    x = _images(3).double()
    torch.testing.assert_close(small(x), masked(x), rtol=1e-10, atol=1e-10)
    assert small.blocks[0].attention.head_dim == 3


def test_queries_with_keys_and_values_go_apart_where_code_allows() -> None:
    communities = found(Apart(), torch.randn(2, 5, 6), dims=True)
    kinds = {c.kind: c.size for c in communities.values()}
    assert kinds == {"key dimension": 3, "value dimension": 5}, reasons(communities)
    assert_exact(communities, num_random=3)


def test_a_price_is_that_of_the_small_model() -> None:
    model = _vit()
    communities = natsel.discover(model, _images(), dims=True)
    masks = {n: torch.arange(c.size) < c.size // 2 for n, c in communities.items()}
    small = natsel.extract(model, masks, communities=communities)
    price = communities.price(masks)
    assert price.parameters == sum(p.numel() for p in small.parameters())
    assert price.macs == pytest.approx(natsel.discover(small, _images()).macs)


@pytest.mark.parametrize("scorer", ["magnitude", "taylor"])
def test_scorers_rank_dimensions(scorer: str) -> None:
    communities = natsel.discover(_vit(), _images(), dims=True)
    scores = natsel.score(communities, scorer, data=[(_images(4), torch.tensor([0, 1, 2, 0]))])
    survivors = natsel.select(scores, natsel.Sparsity(0.5), communities=communities)
    assert {n: len(s) for n, s in scores.items()} == {n: c.size for n, c in communities.items()}
    assert all(bool(s.isfinite().all()) for s in scores.values())
    natsel.extract(communities.model, survivors)


def test_rotary_pairs_of_all_layers_go_together_and_the_model_generates(tmp_path: Path) -> None:
    model = _llama()
    ids = torch.arange(2, 12).reshape(2, 5)
    communities = natsel.discover(model, {"input_ids": ids}, dims=True)
    (mine,) = [c for c in communities.values() if c.kind == "dimension"]
    assert mine.size == 4
    small = natsel.extract(
        model, {mine.name: torch.tensor([True, False, True, True])}, communities=communities
    )
    masked = copy.deepcopy(model)
    for layer in masked.model.layers:
        for head in range(4):
            for place in (8 * head + 1, 8 * head + 5):
                layer.self_attn.q_proj.weight.data[place] = 0
                layer.self_attn.o_proj.weight.data[:, place] = 0
    torch.testing.assert_close(small(ids).logits, masked(ids).logits)
    ours, theirs = (
        m.generate(ids, max_new_tokens=6, do_sample=False, use_cache=True) for m in (small, masked)
    )
    assert torch.equal(ours, theirs)
    assert small.model.layers[0].self_attn.head_dim == 6
    natsel.save(small, tmp_path / "small")
    loaded = natsel.load(tmp_path / "small", model=_llama())
    assert torch.equal(loaded(ids).logits, small(ids).logits)


def test_a_scale_that_code_takes_from_the_width_is_that_of_the_dense_model() -> None:
    model = _vit()
    communities = natsel.discover(model, _images(), dims=True)
    (name,) = [n for n in communities if "attention" in n]
    assert communities[name].scaled
    keep = {name: torch.tensor([True, False, True, False])}
    small = natsel.extract(model, keep, communities=communities)
    report = natsel.verify(model, small, keep, _images(), communities=communities)
    assert report.passed, report
    small.blocks[0].attention.qkv.weight.data[0] *= 1 + 1e-4
    assert not natsel.verify(model, small, keep, _images(), communities=communities).passed


def test_aligned_heads_keep_what_they_compute_and_lose_what_is_not_there() -> None:
    """Queries and keys of rank 2: after a turn two of four dimensions are all there is."""
    model = _vit().double().eval()
    attention = model.blocks[0].attention
    narrow = torch.randn(4, 2).double() @ torch.randn(2, 4).double()
    with torch.no_grad():
        for rows in attention.qkv.weight.view(9, 4, 12):
            rows.copy_(narrow @ torch.randn(4, 12).double())
    communities = natsel.discover(model, _images().double(), dims=True)
    (name,) = [n for n in communities if "attention" in n]
    data = [(_images(64).double(),)]
    aligned = align(model, communities, data)
    assert not aligned.skipped
    assert aligned.scores[name][2:].max() < 1e-6 < aligned.scores[name][1]
    x = _images(5).double()
    torch.testing.assert_close(aligned.model(x), model(x), rtol=1e-8, atol=1e-8)
    half = torch.tensor([True, True, False, False])
    small = natsel.extract(aligned.model, {name: half}, communities=communities)
    plain = natsel.extract(model, {name: half}, communities=communities)
    error, without = ((m(x) - model(x)).abs().max() for m in (small, plain))
    assert error < 1e-3 * without


def test_rotary_heads_are_not_turned() -> None:
    model = _llama()
    ids = torch.arange(2, 12).reshape(2, 5)
    communities = natsel.discover(model, {"input_ids": ids}, dims=True)
    aligned = align(model, communities, [(ids,)])
    assert not aligned.scores
    assert list(aligned.skipped.values()) == [
        "other tensors, such as rotary frequencies, are in its basis"
    ]


def _rotary(kind: str, config: str, **other: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 32, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16,
        "bos_token_id": 1, "eos_token_id": 31,
    }  # fmt: skip
    made = getattr(transformers, config)(**sizes, **other)
    model: nn.Module = getattr(transformers, kind)(made).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def test_biases_of_rotary_queries_and_keys_are_masked_with_their_rows() -> None:
    """A product of biases that are turned by places is no constant of a softmax."""
    model = _rotary("Qwen2ForCausalLM", "Qwen2Config")
    communities = natsel.discover(model, torch.randint(2, 31, (2, 5)), dims=True)
    (mine,) = [c for c in communities.values() if c.kind == "dimension"]
    assert mine.size == 3
    masked = copy.deepcopy(model)
    attention = masked.get_submodule("model.layers.0.self_attn")
    for name, heads in (("q_proj", 4), ("k_proj", 2), ("v_proj", 2)):
        gone = torch.tensor([6 * head + i for head in range(heads) for i in (1, 4)])
        attention.get_submodule(name).weight.data[gone] = 0
        attention.get_submodule(name).bias.data[gone] = 0
    small = natsel.extract(
        model, {mine.name: torch.tensor([True, False, True])}, communities=communities
    )
    ids = torch.randint(2, 31, (3, 9))
    ours, theirs = (m(ids).logits for m in (small, masked))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_frequencies_that_follow_the_length_let_heads_go_and_keep_their_dimensions() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = _rotary("LlamaForCausalLM", "LlamaConfig", rope_parameters=rope)
    ids = torch.randint(2, 31, (2, 5))
    inside = natsel.discover(model, ids, dims=True)
    assert not [c for c in inside.values() if c.kind != "neuron"]
    assert "computed anew from the configuration where inputs are long" in reasons(inside)
    communities = natsel.discover(model, ids)
    name = "model.layers.0.self_attn"
    small = natsel.extract(model, {name: torch.tensor([True, False])}, communities=communities)
    masked = copy.deepcopy(model)
    masked.get_submodule(name).o_proj.weight.data[:, 12:] = 0
    for length in (5, 40, 9):  # up to the length that the frequencies are of, beyond, and back
        long = torch.randint(2, 31, (1, length))
        torch.testing.assert_close(small(long).logits, masked(long).logits)


def test_weights_that_are_tried_as_they_are_are_scaled_in_float64():
    # A bias of keys moves no logit against another: then the model's own weights are tried, too.
    sizes = {"dim": 96, "depth": 1, "heads": 3, "patch": 4, "pool": "mean"}
    model = build("vit", in_shape=(3, 16, 16), num_classes=4, seed=0, **sizes).eval()
    kinds = {c.kind for c in natsel.discover(model, torch.randn(2, 3, 16, 16), dims=True).values()}
    assert kinds == {"neuron", "dimension"}
