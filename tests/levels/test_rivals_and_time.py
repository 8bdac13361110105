"""A search is no worse than plans chosen otherwise; time is read off a table, then measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import natsel
from natsel.levels.budgets import gauge_of
from natsel.levels.greedy import taken_out
from natsel.levels.judge import Judge
from natsel.levels.moves import uniform
from natsel.levels.space import Space
from natsel.levels.tabled import Saving, measured, tabled
from natsel.selection.budget import Gauge

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


@dataclass
class Clock:
    """A budget of made-up time: what the first layer costs counts threefold."""

    limit: float
    slow: float = 0.0
    num: int = 0

    def gauge(self, communities: natsel.Communities) -> Gauge:
        def read(survivors: Any) -> float:
            self.num += 1
            left = [int(survivors[name].sum()) for name in communities]
            lost = sum(c.size for c in communities.values()) - sum(left)
            return 3.0 * left[0] + left[1] + 20 + self.slow * min(lost, 10)

        return Gauge("time", self.limit, self.limit, read, num_steps=8)


def test_a_table_adds_up_what_was_measured(perceptron):
    clock = Clock(100)
    table = tabled(clock.gauge(perceptron), perceptron)
    before = clock.num
    for first, second in ((40, 24), (31, 24), (13, 7), (1, 1)):
        plan = {
            n: torch.arange(c.size) < k
            for (n, c), k in zip(perceptron.items(), (first, second), strict=True)
        }
        assert table.read(plan) == pytest.approx(3 * first + second + 20)
    assert clock.num == before
    assert table.num_steps is None


def test_a_search_for_time_gives_what_is_slow_here_and_measures_what_it_keeps(perceptron):
    clock = Clock(110)
    found = natsel.evolve_levels(
        perceptron, clock, [(X,)], evaluations=24, offspring=8, held_out=[(X.flip(0),)]
    )
    left = [int(m.sum()) for m in found.survivors.values()]
    assert 3 * left[0] + left[1] + 20 <= 110
    assert clock.num < 20  # not one for each candidate


def test_a_table_that_promised_too_much_is_tightened(perceptron):
    # What goes costs at first: small removals measure more than the table says.
    clock = Clock(110, slow=1.0)
    gauge = clock.gauge(perceptron)
    scores = {n: torch.arange(c.size).double() for n, c in perceptron.items()}
    space = Space.of_communities(
        perceptron, scores, tabled(Clock(110).gauge(perceptron), perceptron)
    )
    plan = (22, 24)
    assert space.meets(plan)
    assert gauge.read(space.survivors(plan)) > 110
    tightened, value = measured(space, plan, gauge)
    assert value <= 110
    assert gauge.read(space.survivors(tightened)) == value
    assert space.gauge.limit == 110
    with pytest.raises(ValueError, match="time"):
        measured(space, plan, Clock(5).gauge(perceptron))


def test_savings_go_on_the_line_between_two_counts():
    saving = Saving((8, 4, 2), (0.0, 1.0, 3.0))
    assert [saving.at(n) for n in (8, 6, 4, 3, 2, 1)] == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_rival_that_is_better_is_kept(perceptron):
    # The uniform plan and all levels choose by bad scores; the rival chose within communities, too.
    budget = natsel.Sparsity(0.5)
    bad = {n: -s for n, s in natsel.score(perceptron, "joint", data=[(X,)]).items()}
    good = natsel.select(natsel.score(perceptron, "joint", data=[(X,)]), budget)
    found = natsel.evolve_levels(
        perceptron, budget, [(X,)], scores=bad, rivals={"adaptive": good}, evaluations=16
    )
    assert found.kept == "adaptive"
    assert all(torch.equal(found.survivors[n], good[n]) for n in good)
    assert found.rivals["adaptive"].difference < 0
    assert "adaptive" in found.sentence


def test_a_rival_that_is_worse_changes_nothing_but_the_test(perceptron):
    budget = natsel.Sparsity(0.5)
    bad = {n: -s for n, s in natsel.score(perceptron, "joint", data=[(X,)]).items()}
    rival = natsel.select(bad, budget)
    found = natsel.evolve_levels(perceptron, budget, [(X,)], rivals={"bad": rival}, evaluations=16)
    assert found.kept in ("searched", "uniform")
    assert found.rivals["bad"].difference > 0


@pytest.mark.parametrize("change", ["name", "missing", "size", "budget"])
def test_a_rival_that_is_none_is_named(perceptron, change):
    good = dict(natsel.select(natsel.score(perceptron, "magnitude"), natsel.Sparsity(0.5)))
    first = next(iter(good))
    if change == "missing":
        del good[first]
    elif change == "size":
        good[first] = torch.ones(3, dtype=torch.bool)
    elif change == "budget":
        good[first] = torch.ones_like(good[first])
    rivals = {"uniform" if change == "name" else "mine": natsel.Survivors(good)}
    with pytest.raises(ValueError, match="rivals"):
        natsel.evolve_levels(perceptron, natsel.Sparsity(0.5), [(X,)], rivals=rivals)


def test_all_kinds_start_from_a_greedy_plan_that_is_near_the_best():
    # Blocks whose width or whose whole branch is idle: scores of one kind do not know of the other.
    torch.manual_seed(0)
    model = Idle().eval()
    x = torch.randn(32, 8)
    communities = natsel.discover(model, x[:1], branches=True)
    assert {c.kind for c in communities.values()} == {"neuron", "branch"}
    scores = {n: torch.ones(c.size) - torch.arange(c.size) / 100 for n, c in communities.items()}
    gauge = gauge_of(natsel.Parameters(0.7), communities)
    space, judge = Space.of_communities(communities, scores, gauge), Judge(communities, (x,))
    windows = list(range(len(judge)))
    plan = taken_out(space, judge, lambda: windows, room=1e6)
    assert plan is not None
    assert space.meets(plan)
    found, even = (judge.value(space.survivors(p)) for p in (plan, uniform(space)))
    assert found < 0.05 * even
    assert taken_out(space, judge, lambda: windows, room=1) is None


class Idle(nn.Module):
    """Of three branches one adds next to nothing, and of one only the first neurons do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(3)
        )
        with torch.no_grad():
            self.blocks[1][2].weight.mul_(1e-4)
            self.blocks[1][2].bias.mul_(1e-4)
            self.blocks[2][2].weight[:, 8:].mul_(1e-4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)
