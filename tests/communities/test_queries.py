"""Query heads that go without the keys and values that they share."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from exactness import Net, assert_exact, found, offered, owned, reasons
from torch import Tensor, nn

import natsel
from natsel.extraction.aligning import align

SIZES = {
    **{"vocab_size": 32, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 2},
    **{"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4},
    **{"max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 31, "pad_token_id": 0},
}


def _model(kind: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **sizes})
    return getattr(transformers, f"{kind}ForCausalLM")(config).double().eval()


def _tokens(num_samples: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(2, 30, (num_samples, 7), generator=generator)


def _padded() -> dict[str, Tensor]:
    """Two samples, one of which begins with padding: another way to attend runs then."""
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[0, 5:] = 0
    return {"input_ids": _tokens(), "attention_mask": mask}


def _without(model: Any, columns: Tensor) -> Any:
    """Return the masked model: in every layer nothing reads some places of what heads put out."""
    masked = copy.deepcopy(model)
    for layer in masked.model.layers:
        layer.self_attn.o_proj.weight.data[:, columns] = 0
    return masked


class Multi(nn.Module):
    """Multi-query attention, written out: one head of keys and values, which broadcasts."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.width, self.fused = 3, 2, fused
        self.q, self.kv, self.out = nn.Linear(4, 6), nn.Linear(4, 4), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.heads, self.width).transpose(1, 2)
        k, v = self.kv(x).unsqueeze(1).split(self.width, dim=-1)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k.expand_as(q), v.expand_as(q))
        else:
            y = torch.softmax(q @ k.transpose(-2, -1), -1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("fused", [False, True])
def test_heads_of_multi_query_attention_go_one_by_one(fused: bool) -> None:
    communities = found(Multi(fused=fused), torch.randn(2, 5, 4))
    assert offered(communities) == {"q": ("query head", 3)}, reasons(communities)
    pairs = [[0, 1], [2, 3], [4, 5]]
    assert owned(communities, "q") == {
        "q.weight:0": pairs,
        "q.bias:0": pairs,
        "out.weight:1": pairs,
    }
    assert "it stays for those that are left" in reasons(communities)
    assert_exact(communities)


def test_places_of_groups_go_together_and_groups_where_they_are_asked_for() -> None:
    model = _model("Llama", num_hidden_layers=1)
    name = "model.layers.0.self_attn"
    groups = natsel.discover(model, _tokens())
    assert (groups[name].kind, groups[name].size) == ("head", 2)
    places = natsel.discover(model, _tokens(), query_heads=True)
    assert (places[name].kind, places[name].size) == ("query head", 3), reasons(places)
    first = {s.tensor.split(".")[-2]: s.index[0].tolist() for s in places[name].slices}
    both = [0, 1, 2, 3, 12, 13, 14, 15]
    assert first == {"q_proj": both, "o_proj": both}


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("Llama", {}),
        ("Llama", {"attn_implementation": "eager"}),
        ("Qwen3", {}),
        ("Phi3", {}),
        ("Gemma", {"num_key_value_heads": 1, "num_attention_heads": 3}),
    ],
    ids=["sdpa", "eager", "qwen3", "fused", "multi-query"],
)
def test_decoders_equal_the_masked_ones_generate_and_load(
    kind: str, sizes: dict[str, Any], tmp_path: Path
) -> None:
    model = _model(kind, **sizes)
    num_groups = model.config.num_key_value_heads
    communities = natsel.discover(model, _tokens(), query_heads=True).only("query head")
    survivors = {name: torch.tensor([True, False, True]) for name in communities}
    small = natsel.extract(model, survivors, communities=communities)
    gone = torch.tensor([4 * (3 * g + 1) + d for g in range(num_groups) for d in range(4)])
    masked = _without(model, gone)
    for inputs in ({"input_ids": _tokens(3)}, _padded()):
        seen = inputs.get("attention_mask", torch.ones(3, 7)).bool()
        mine, wanted = small(**inputs).logits[seen], masked(**inputs).logits[seen]
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)
    assert small.num_parameters() == communities.price(survivors).parameters
    config = small.config
    assert (config.num_attention_heads, config.num_key_value_heads) == (2 * num_groups, num_groups)
    words = [
        m.generate(**_padded(), max_new_tokens=4, do_sample=False, use_cache=cached)
        for m, cached in ((small, True), (small, False), (masked, True))
    ]
    assert torch.equal(words[0], words[1])
    assert torch.equal(words[0], words[2])
    small.save_pretrained(tmp_path)
    how = {"dtype": torch.float64, "attn_implementation": config._attn_implementation}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **how)
    # Gemma computes a scale of its embeddings in the precision that it is made in.
    torch.testing.assert_close(
        loaded(_tokens()).logits, small(_tokens()).logits, rtol=1e-6, atol=1e-6
    )


def test_layers_may_keep_different_counts_and_the_plan_brings_them_back(tmp_path: Path) -> None:
    model = _model("Llama")
    communities = natsel.discover(model, _tokens(), query_heads=True).only("query head")
    kept = ([True, False, False], [False, True, True])
    survivors = {n: torch.tensor(k) for n, k in zip(communities, kept, strict=True)}
    small = natsel.extract(model, survivors, communities=communities)
    natsel.save(small, tmp_path / "small")
    loaded = natsel.load(tmp_path / "small")
    assert torch.equal(loaded(**_padded()).logits, small(**_padded()).logits)


def test_fused_projections_of_other_libraries_follow() -> None:
    """Falcon names places from the end, ``[..., [-2], :]``; its heads share one of each."""
    config = transformers.FalconConfig(
        vocab_size=32, hidden_size=24, num_hidden_layers=1, num_attention_heads=4, alibi=False,
        bos_token_id=1, eos_token_id=31,
    )  # fmt: skip
    communities = found(transformers.FalconForCausalLM(config), _tokens())
    heads = communities.only("query head")
    assert [c.size for c in heads.values()] == [4], reasons(communities)
    model = communities.model
    survivors = {name: torch.tensor([False, True, True, False]) for name in heads}
    small = natsel.extract(model, survivors, communities=heads)
    masked = copy.deepcopy(model)
    gone = [*range(6), *range(18, 24)]
    masked.transformer.h[0].self_attention.dense.weight.data[:, gone] = 0
    ours, wanted = small(_tokens(3)).logits, masked(_tokens(3)).logits
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)


def test_places_that_code_names_are_those_places() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        made = net.a(x).view(len(x), -1, 2)
        return net.b(made[:, [-2, -1]].flatten(1) * made[:, :2].flatten(1))

    communities = found(Net(forward, a=nn.Linear(3, 8), b=nn.Linear(4, 2)), torch.randn(2, 3))
    assert not communities, offered(communities)  # which places are named changes with their number


def test_compensation_takes_query_heads() -> None:
    model = _model("Llama")
    communities = natsel.discover(model, _tokens(), query_heads=True).only("query head")
    data = [(_tokens(8),) for _ in range(2)]
    survivors = {name: torch.tensor([True, False, True]) for name in communities}
    dense = model(_tokens(8)).logits

    @torch.no_grad()
    def error(**options: Any) -> float:
        small = natsel.extract(model, survivors, communities=communities, **options)
        return float((small(_tokens(8)).logits - dense).square().mean())

    assert error(compensate=data) < 0.9 * error()


def test_align_lets_each_group_lose_its_own_least() -> None:
    """The least of the first group is its second head, of the second group its first."""
    model = _model("Llama", num_hidden_layers=1)
    attention = model.model.layers[0].self_attn
    for head in (1, 3):
        attention.o_proj.weight.data[:, 4 * head : 4 * head + 4] *= 1e-6
    communities = natsel.discover(model, _tokens(), query_heads=True).only("query head")
    aligned = align(model, communities, [(_tokens(4),)])
    assert not aligned.skipped
    mine, wanted = aligned.model(**_padded()).logits, model(**_padded()).logits
    torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)
    (name,) = communities
    assert aligned.scores[name].argmin() == 2
    assert float(aligned.scores[name][2]) < 1e-6
    kept = {name: torch.tensor([True, True, False])}
    found = natsel.discover(aligned.model, _tokens(), query_heads=True)
    small = natsel.extract(aligned.model, kept, communities=found)
    assert float((small(_tokens()).logits - model(_tokens()).logits).detach().abs().max()) < 1e-6
