"""Budgets of parameters and multiply-accumulates, against a one-by-one reference."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import natsel
from natsel import MACs, Parameters, Sparsity, select


@pytest.fixture(scope="module")
def communities():
    model = nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )
    return natsel.discover(model, torch.zeros(1, 6))


def cost(budget, first, second):
    """Count a 6-first-second-3 network by hand."""
    macs = 6 * first + first * second + second * 3
    return macs if isinstance(budget, MACs) else macs + first + second + 3


def limit(budget):
    if isinstance(budget.value, int):
        return budget.value
    return Fraction(str(budget.value)) * cost(budget, 16, 12)


def one_by_one(scores, budget, scope):
    """Remove populations one after the other until the hand count meets the budget."""
    sizes = {name: len(s) for name, s in scores.items()}
    queue = []
    for position, (name, score) in enumerate(scores.items()):
        # From the fittest down; among equals the first stays longest.
        ranking = sorted(range(sizes[name]), key=lambda i, s=score: (-s[i].item(), i))
        for place, index in enumerate(ranking[1:], 1):
            rank = (sizes[name] - 1 - place) / (sizes[name] - 1)
            share = (sizes[name] - place - 0.5) / sizes[name]
            key = (share, position) if scope == "community" else (rank, -position, -index)
            queue.append((key, name, index))
    alive = {name: [True] * n for name, n in sizes.items()}
    for _, name, index in sorted(queue):
        if cost(budget, *(sum(a) for a in alive.values())) <= limit(budget):
            break
        alive[name][index] = False
    return alive


scores_of = st.tuples(
    st.lists(st.integers(0, 30), min_size=16, max_size=16),
    st.lists(st.integers(0, 30), min_size=12, max_size=12),
).map(lambda v: {"0": torch.tensor(v[0]), "2": torch.tensor(v[1])})
# No network of this shape is smaller than 1-1: 15 parameters, 10 multiply-accumulates.
cost_budgets = st.sampled_from([Parameters, MACs]).flatmap(
    lambda kind: st.one_of(st.floats(0.06, 1).map(lambda x: round(x, 3)), st.integers(15, 400)).map(
        kind
    )
)
scopes = st.sampled_from(["community", "global"])


@settings(deadline=None, max_examples=100)
@given(scores_of, cost_budgets, scopes)
def test_the_fewest_that_meet_the_budget_go(communities, scores, budget, scope):
    survivors = select(scores, budget, scope=scope, communities=communities)
    expected = one_by_one(scores, budget, scope)
    assert {name: m.tolist() for name, m in survivors.items()} == expected


@settings(deadline=None, max_examples=60)
@given(scores_of, cost_budgets, scopes, st.data())
def test_a_tighter_budget_keeps_a_subset(communities, scores, budget, scope, data):
    tight = type(budget)(data.draw(st.integers(15, max(15, math.floor(limit(budget))))))
    options = {"scope": scope, "communities": communities}
    loose, strict = select(scores, budget, **options), select(scores, tight, **options)
    assert all(bool((loose[n] | ~strict[n]).all()) for n in scores)


def test_by_hand():
    """Each hidden neuron of 6-4-2 costs 8."""
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 2, bias=False))
    communities = natsel.discover(model, torch.zeros(1, 6), proof=False)
    scores = {"0": torch.tensor([0.2, 0.9, 0.1, 0.5])}
    for budget, expected in [
        (Parameters(1.0), [1, 1, 1, 1]),  # 32 of 32
        (Parameters(31), [1, 1, 0, 1]),  # 24
        (Parameters(24), [1, 1, 0, 1]),
        (Parameters(0.5), [0, 1, 0, 1]),  # 16
        (MACs(0.4999), [0, 1, 0, 0]),  # 8
        (MACs(1_000_000), [1, 1, 1, 1]),  # more than there are: nothing goes
    ]:
        survivors = select(scores, budget, communities=communities)
        assert survivors["0"].int().tolist() == expected, budget


def test_the_small_model_is_as_small_as_asked(communities):
    scores = natsel.score(communities, "magnitude")
    small = natsel.extract(communities.model, select(scores, Parameters(100)))
    assert sum(p.numel() for p in small.parameters()) <= 100


def test_a_share_is_the_decimal_that_was_written():
    model = nn.Sequential(nn.Linear(5, 10, bias=False), nn.Linear(10, 5, bias=False))
    known = natsel.discover(model, torch.zeros(1, 5), proof=False)
    # 0.29 * 100 is 28.999999999999996 in floating point.
    for share, kept in [(0.3, 3), (0.29, 2), (0.7, 7)]:
        assert (
            int(select({"0": torch.rand(10)}, Parameters(share), communities=known)["0"].sum())
            == kept
        )


def test_what_cannot_be_reached_names_the_nearest(communities):
    scores = {"0": torch.rand(16), "2": torch.rand(12)}
    for scope in ("community", "global"):
        with pytest.raises(ValueError, match=r"parameters=14 .*at least 15 of 355 .*floor of 1"):
            select(scores, Parameters(14), communities=communities, scope=scope)
        with pytest.raises(ValueError, match=r"macs=0\.01 .*at least 10 of 324"):
            select(scores, MACs(0.01), communities=communities, scope=scope)
    with pytest.raises(ValueError, match=r"at least 23 of 355.*floor of 1 to 2 in each of 2"):
        select(scores, Parameters(14), communities=communities, floor={"0": 2})


def test_a_cost_needs_a_model():
    with pytest.raises(ValueError, match=r"communities=None.*natsel\.Parameters"):
        select({"a": torch.rand(4)}, Parameters(0.5))


@pytest.mark.parametrize("kind", [Parameters, MACs])
@pytest.mark.parametrize(
    "value", [0, 1, -1, -5, 0.0, -0.5, 1.5, 2.0, math.nan, math.inf, True, "0.5", None]
)
def test_costs_outside_what_is_allowed_are_refused(kind, value):
    with pytest.raises(ValueError, match=rf"{kind.__name__.lower()}=.*\(0, 1\]"):
        kind(value)


def test_the_budget_is_found_by_halving(communities, monkeypatch):
    """28 populations: the dense price, two ends, and log2 of what may go."""
    prices = []
    original = type(communities).price
    monkeypatch.setattr(
        type(communities), "price", lambda self, s=None: prices.append(0) or original(self, s)
    )
    scores = {"0": torch.rand(16), "2": torch.rand(12)}
    select(scores, Parameters(0.5), communities=communities, scope="global")
    assert len(prices) <= 1 + 2 + 5


def test_sparsity_and_parameters_agree_where_all_cost_the_same():
    model = nn.Sequential(nn.Linear(5, 10, bias=False), nn.Linear(10, 5, bias=False))
    communities = natsel.discover(model, torch.zeros(1, 5), proof=False)
    scores = {"0": torch.rand(10)}
    for share in (0.1, 0.4, 0.9):
        one = select(scores, Sparsity(share), communities=communities)
        other = select(scores, Parameters(round(1 - share, 3)), communities=communities)
        assert torch.equal(one["0"], other["0"])
