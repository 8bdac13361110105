"""The same width in every layer: equal counts exactly, and no budget missed for it."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import natsel
from natsel.selection.uniform import layers_apart


class Block(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


def stack(inner, width=3):
    torch.manual_seed(0)
    return nn.Sequential(*(Block(width, n) for n in inner))


def found(inner):
    return communities_of(tuple(inner))


@functools.cache
def communities_of(inner, width=3):
    return natsel.discover(stack(inner, width), torch.randn(2, width))


def counts(survivors):
    return [int(mask.sum()) for mask in survivors.values()]


def scores_of(communities, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # Each layer on a scale of its own, so that comparing raw scores tears the widths apart.
    return {
        name: torch.rand(c.size, generator=generator) * 10**i
        for i, (name, c) in enumerate(communities.items())
    }


def test_what_is_tied_differs_in_numbers_alone():
    sizes = {"h.0.mlp": 4, "h.11.mlp": 4, "h.2.attn": 4, "h.3.mlp": 5, "x.0.mlp": 4, "h.mlp": 4}
    assert layers_apart(sizes, sizes) == [
        ["h.0.mlp", "h.11.mlp"],
        ["h.2.attn"],
        ["h.3.mlp"],
        ["x.0.mlp"],
        ["h.mlp"],
    ]
    assert layers_apart(sizes, ["h.11.mlp", "h.mlp"]) == [["h.11.mlp"], ["h.mlp"]]


@pytest.mark.parametrize("scope", ["community", "global"])
@pytest.mark.parametrize("normalize", ["rank", "mean", None])
def test_counts_are_equal_and_each_layer_keeps_its_own_best(scope, normalize):
    communities = found([8, 8, 8])
    scores = scores_of(communities)
    survivors = natsel.select(
        scores,
        natsel.Sparsity(0.5),
        communities=communities,
        scope=scope,
        normalize=normalize,
        uniform=True,
    )
    assert counts(survivors) == [4, 4, 4]
    for name, mask in survivors.items():
        assert scores[name][mask].min() > scores[name][~mask].max()


def test_without_it_the_widths_differ():
    communities = found([8, 8, 8])
    options = {"communities": communities, "scope": "global", "normalize": None}
    uneven = natsel.select(scores_of(communities), natsel.Sparsity(0.5), **options)
    assert len(set(counts(uneven))) > 1


def test_between_groups_the_least_fit_go_first():
    communities = found([4, 4, 6])
    names = list(communities)
    scores = {names[0]: [5, 6, 7, 8], names[1]: [1, 6, 7, 8], names[2]: [4, 4, 4, 9, 9, 9]}
    scores = {n: torch.tensor(v, dtype=torch.float) for n, v in scores.items()}
    # By rank from below the pair stands at 3, 6, 7, 8 and goes two at a time; the third at 4 and 9.
    for removed, kept in [(2, [3, 3, 6]), (3, [3, 3, 5]), (5, [3, 3, 3]), (7, [2, 2, 3])]:
        survivors = natsel.select(
            scores, natsel.Sparsity(removed / 14), scope="global", normalize=None, uniform=True
        )
        assert counts(survivors) == kept


@settings(max_examples=40, deadline=None)
@given(
    share=st.floats(0.5, 1.0),
    num=st.integers(1, 3),
    multiple=st.sampled_from([1, 2, 4]),
    floor=st.integers(1, 6),
    scope=st.sampled_from(["community", "global"]),
)
def test_a_cost_is_met_and_one_step_more_would_not_be(share, num, multiple, floor, scope):
    inner = [8] * num + [12] * num
    communities = found(inner)
    limit = int(share * communities.price().parameters)
    options = {"floor": floor, "multiple_of": multiple, "uniform": True, "scope": scope}
    options["communities"] = communities
    least = [-(-floor // multiple) * multiple] * (2 * num)
    per, fixed = 7, 3 * 2 * num
    assert communities.price().parameters == per * sum(inner) + fixed
    if per * sum(least) + fixed > limit:
        with pytest.raises(ValueError, match="at least"):
            natsel.select(scores_of(communities), natsel.Parameters(limit), **options)
        return
    survivors = natsel.select(scores_of(communities), natsel.Parameters(limit), **options)
    first, second = counts(survivors)[:num], counts(survivors)[num:]
    assert len(set(first)) == len(set(second)) == 1
    assert all(n % multiple == 0 or n == full for n, full in ((first[0], 8), (second[0], 12)))
    assert min(first[0], second[0]) >= least[0]
    cost = communities.price(survivors).parameters
    assert cost <= limit
    # One step more in one of the groups is over: the last one that went had to.
    more = [
        per * num * (min(n + multiple, full) - n)
        for n, full in ((first[0], 8), (second[0], 12))
        if n < full
    ]
    assert not more or cost + max(more) > limit


def test_the_highest_floor_holds_in_all():
    communities = found([8, 8])
    name = list(communities)[1]
    survivors = natsel.select(
        scores_of(communities),
        natsel.Parameters(70),
        communities=communities,
        floor={name: 4},
        uniform=True,
    )
    assert counts(survivors) == [4, 4]


def test_what_takes_no_part_stays_whole_and_ties_nobody():
    communities = found([8, 8, 8])
    first = next(iter(communities))
    survivors = natsel.select(
        scores_of(communities), natsel.Sparsity(0.5), exclude=first, uniform=True
    )
    assert counts(survivors) == [8, 4, 4]


def test_patterns_of_a_budget_are_met_apart():
    communities = found([8, 8, 8, 8])
    names = list(communities)
    budget = {names[0]: natsel.Sparsity(0.5), "[123]*": natsel.Sparsity(0.25)}
    survivors = natsel.select(scores_of(communities), budget, uniform=True, scope="global")
    assert counts(survivors) == [4, 6, 6, 6]


def test_the_result_without_it_is_the_one_it_always_was():
    communities = found([8, 12, 5])
    scores = scores_of(communities)
    for scope in ("community", "global"):
        plain = natsel.select(scores, natsel.Parameters(100), communities=communities, scope=scope)
        # No two are tied here: three sizes.
        tied = natsel.select(
            scores, natsel.Parameters(100), communities=communities, scope=scope, uniform=True
        )
        assert all(torch.equal(plain[name], tied[name]) for name in plain)


def test_one_line_for_what_it_is_not():
    scores = {"a": torch.rand(4)}
    with pytest.raises(ValueError, match=r"uniform='yes' is not allowed: expected True or False"):
        natsel.select(scores, natsel.Sparsity(0.5), uniform="yes")
    weights = natsel.weights(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="uniform=True"):
        natsel.select(weights, natsel.Sparsity(0.5), uniform=True)
