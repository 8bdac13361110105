"""Laws of the search: swaps keep the budget, the best never gets worse, nothing is run twice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import natsel
from natsel.levels.budgets import gauge_of
from natsel.levels.drawing import Drawing
from natsel.levels.judge import Judge
from natsel.levels.moves import additive, swap, uniform
from natsel.levels.racing import race
from natsel.levels.searching import Search
from natsel.levels.space import Space, sites, with_level

BUDGETS = (
    natsel.Sparsity(0.4),
    natsel.Parameters(0.55),
    natsel.MACs(0.6),
    natsel.Parameters(0.8),
)


class Tower(nn.Module):
    """A stream with four perceptrons of different widths: branches of different cost."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, n), nn.ReLU(), nn.Linear(n, 8)) for n in (5, 12, 7, 20)
        )
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


@pytest.fixture(scope="module")
def tower() -> natsel.Communities:
    torch.manual_seed(0)
    found = natsel.discover(Tower(), torch.zeros(1, 6), branches=True)
    return found.only("branch", "neuron")


def space_of(communities, budget) -> Space:
    generator = torch.Generator().manual_seed(0)
    scores = {n: torch.rand(c.size, generator=generator) for n, c in communities.items()}
    return Space.of_communities(communities, scores, gauge_of(budget, communities))


def full_somewhere(space: Space, individual, at: int) -> bool:
    """Tell whether one population more in a place would exceed the budget."""
    level, place = individual[at], space.places[at]
    if isinstance(level, frozenset):
        return all(not space.meets(with_level(individual, at, level - {u})) for u in level)
    return level == place.size or not space.meets(with_level(individual, at, level + 1))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), which=st.integers(0, len(BUDGETS) - 1), swaps=st.integers(1, 3))
def test_swaps_keep_the_budget_to_within_one_population(tower, seed, which, swaps):
    space = space_of(tower, BUDGETS[which])
    generator = torch.Generator().manual_seed(seed)
    even = torch.ones(len(sites(space)))
    parent = uniform(space)
    for _ in range(3):
        move = swap(space, parent, getting=even, giving=even, generator=generator, swaps=swaps)
        assert space.cost(move.child) <= space.gauge.limit
        if move.child != parent:
            assert move.gets
            assert move.gives
            at = sites(space)[move.gets[-1]][0]
            assert full_somewhere(space, move.child, at)
            for place, level in zip(space.places, move.child, strict=True):
                if isinstance(level, int):
                    assert place.least <= level <= place.size
                else:
                    assert len(level) < len(place.units)
        parent = move.child


@pytest.mark.parametrize("budget", BUDGETS)
def test_seeds_meet_the_budget_and_waste_nothing(tower, budget):
    space = space_of(tower, budget)
    scores = {n: torch.arange(float(c.size)) for n, c in tower.items()}
    for seed in (uniform(space), additive(space, scores, "mean"), additive(space, scores, None)):
        assert space.meets(seed)
        assert any(full_somewhere(space, seed, at) for at in range(len(seed)))


def test_an_individual_is_survivors_and_back(tower):
    space = space_of(tower, natsel.Parameters(0.6))
    individual = uniform(space)
    assert space.of(space.survivors(individual)) == individual
    assert space.individual(space.plain(individual)) == individual
    assert space.cost(individual) == tower.price(space.survivors(individual)).parameters


def test_what_goes_with_a_branch_gives_nothing_of_its_own(tower):
    space = space_of(tower, natsel.Parameters(0.6))
    (at,) = [i for i, place in enumerate(space.places) if place.units]
    out = with_level(space.lowest, at, frozenset({0}))
    inside = [i for i, place in enumerate(space.places) if place.goes_with(space.absent(out))]
    assert len(inside) == 1
    (dead,) = inside
    mask = space.survivors(out)[space.places[dead].name]
    assert bool(mask.all())
    assert space.canonical(out)[dead] == space.places[dead].size


X = torch.randn(24, 6, generator=torch.Generator().manual_seed(1))


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), law=st.sampled_from([None, "replicator", "wright-fisher"]))
def test_the_best_never_gets_worse_and_its_value_is_that_of_all_data(tower, seed, law):
    space = space_of(tower, natsel.Parameters(0.6))
    judge = Judge(tower, (X,))
    drawing = Drawing(len(sites(space)), law)
    search = Search(space, judge, drawing, torch.Generator().manual_seed(seed))
    search.start([uniform(space)])
    for _ in range(4):
        search.generation(5)
    values = [g.best for g in search.history]
    assert values == sorted(values, reverse=True)
    fresh = Judge(tower, (X,))
    assert fresh.value(space.survivors(search.best)) == pytest.approx(search.value, rel=1e-6)
    assert all(mass >= 0 for mass in drawing.getting.tolist() + drawing.giving.tolist())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=12))
def test_equal_masks_run_once(tower, chosen):
    judge = Judge(tower, (X,))
    (name,) = [n for n, c in tower.items() if c.branches]
    for alive in chosen:
        masks = {**tower.full(), name: torch.tensor(alive)}
        first = judge.totals(masks, range(3))
        assert torch.equal(judge.totals(masks)[:3], first)
    different = len({tuple(alive) for alive in chosen})
    assert judge.num_run == different
    assert judge.num_windows == different * len(judge)


def test_a_race_stops_whoever_cannot_win_and_loses_no_winner(tower):
    judge, fresh = Judge(tower, (X,)), Judge(tower, (X,))
    (name,) = [n for n, c in tower.items() if c.branches]
    masks = [{**tower.full(), name: torch.arange(4) != number} for number in range(4)]
    values = [fresh.value(m) for m in masks]
    order = sorted(range(4), key=lambda i: values[i])
    bound = fresh.totals(masks[order[1]])
    found = race(judge, masks, bound, range(len(judge)), go_on=(1.0, 1.0), behind=float("inf"))
    assert found[order[0]] == pytest.approx(values[order[0]])
    assert all(found[i] == float("inf") for i in order[1:])
    assert judge.num_windows < 4 * len(judge)
