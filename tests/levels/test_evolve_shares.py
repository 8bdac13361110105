"""Shares of single weights by search: put together as solved, never more weights, better."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import natsel
from natsel.levels.judge import Judge
from natsel.levels.slopes import begun, plans, worth
from natsel.levels.steps import Solved, Steps, grid
from natsel.pruning.taking_part import layers_of
from natsel.single_weights.in_block import Solver

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


class Uneven(nn.Module):
    """Two paths into a sum; all but nothing of the second arrives."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loud, self.quiet = nn.Linear(8, 6, bias=False), nn.Linear(8, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.loud(x) + 0.01 * self.quiet(x)


def solved(model: nn.Module, scorer: str = "obs") -> Solved:
    layers, _ = layers_of(model, None, None)
    found = Solved(model, layers)
    found.solve([(X,)], 0.5, spread=0.3, num=2, solver=Solver(scorer, refit=False))
    return found


def test_levels_lie_around_the_uniform_one_and_leave_something():
    assert grid(100, 0.7, 0.2, 2) == ((90, 80, 70, 60, 50), 2)
    assert grid(100, 0.95, 0.2, 2) == ((99, 97, 95, 93, 91), 2)  # never a whole row
    assert grid(4, 0.5, 0.2, 4) == ((3, 2, 1), 1)
    with pytest.raises(ValueError, match="sparsity"):
        grid(1, 0.5, 0.2, 2)


@pytest.mark.parametrize("scorer", ["obs", "wanda"])
def test_a_plan_runs_on_what_sparsify_makes_of_each_layer(scorer):
    model = Uneven().eval()
    found = solved(model, scorer)
    space = found.space()
    plan = space.survivors((1, 3))
    with found.masked(plan) as (lent, replaced):
        assert lent is model
        for name, level in (("loud.weight", 1), ("quiet.weight", 3)):
            share = natsel.Sparsity(found.steps[name].removed[level] / 8)
            alone = natsel.sparsify(
                model, {name: share}, data=[(X,)], scorer=scorer, refit=False
            ).model
            assert torch.equal(replaced[name], alone.get_parameter(name))
    assert space.cost((1, 3)) == sum(int(w.count_nonzero()) for w in replaced.values())


def test_plans_leave_no_more_weights_than_the_uniform_one():
    found = solved(Uneven().eval())
    space = found.space()
    even = tuple(s.even for s in found.steps.values())
    assert space.cost(even) == space.gauge.limit == 2 * 6 * 4
    for plan in plans(list(found.steps.values()), [1.0, 0.1], even, space.gauge.limit):
        assert space.meets(plan)
        assert plan[0] > plan[1]


def test_a_layer_is_worth_what_its_errors_cost_the_whole():
    found = solved(Uneven().eval())
    space, judge = found.space(), Judge(found, (X,))
    even = tuple(s.even for s in found.steps.values())
    steps = list(found.steps.values())
    loud, quiet = worth(space, judge, steps, even, range(len(judge)), [range(1), range(1, 2)])
    assert loud > 5 * quiet
    seeds = begun(space, judge, found.steps, even, range(len(judge)), room=64)
    best = min(seeds, key=lambda plan: judge.value(space.survivors(plan)))
    assert best[0] > even[0] > best[1]


def test_least_error_is_found_where_errors_are_convex():
    # Brute force over all plans of three layers.
    steps = [
        Steps(str(n), 1, 12, (9, 6, 3), errors, 1)
        for n, errors in enumerate([(0.9, 0.4, 0.1), (0.5, 0.2, 0.1), (0.8, 0.5, 0.3)])
    ]
    worths = [3.0, 1.0, 0.5]
    (found,) = list(plans(steps, worths, (1, 1, 1), 18))

    def total(plan):
        return sum(w * s.errors[level] for w, s, level in zip(worths, steps, plan, strict=True))

    able = [
        (a, b, c)
        for a in range(3)
        for b in range(3)
        for c in range(3)
        if sum(s.left(level) for s, level in zip(steps, (a, b, c), strict=True)) <= 18
    ]
    assert total(found) == pytest.approx(min(map(total, able)))


def test_searched_shares_beat_the_uniform_ones_and_are_the_same_again(tmp_path):
    model = Uneven().eval()
    before = {n: p.clone() for n, p in model.named_parameters()}
    options = {"evaluations": 24, "windows": 4, "num_levels": 2, "spread": 0.3}
    data, held_out = [(X,)], [(torch.randn(64, 8),)]
    found = natsel.evolve_shares(
        model, natsel.Sparsity(0.5), data, held_out=held_out, cache=tmp_path, **options
    )
    assert found.kept == "searched"
    assert found.test.p_value < 0.05
    assert found.budgets["loud.weight"].value < 0.5 < found.budgets["quiet.weight"].value
    sparse = natsel.sparsify(model, found.budgets, data=data, scorer="obs")
    even = natsel.sparsify(model, natsel.Sparsity(0.5), data=data, scorer="obs")
    assert sparse.sparsity >= even.sparsity
    (x,) = held_out[0]
    errors = [(s.model(x) - model(x)).square().mean() for s in (sparse, even)]
    assert errors[0] < 0.7 * errors[1]
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    again = natsel.evolve_shares(
        model, natsel.Sparsity(0.5), data, held_out=held_out, offload=tmp_path / "off", **options
    )
    assert again.plain() == found.plain()
    assert list((tmp_path / "off").iterdir()) == []


@pytest.mark.slow
def test_a_language_model_is_searched_through_its_blocks(llama, windows, others):
    found = natsel.evolve_shares(
        llama.model, natsel.Sparsity(0.6), windows, held_out=others, evaluations=16, offspring=4
    )
    assert "lm_head.weight" not in found.budgets
    assert len(found.budgets) == 28
    assert found.values[0] <= found.values[1] or found.kept == "uniform"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("budget", natsel.NM(2, 4)),
        ("spread", 1.0),
        ("num_levels", 0),
        ("scorer", "taylor"),
        ("fitness", "accuracy"),
        ("evaluations", 0),
    ],
)
def test_what_is_not_allowed_is_named(argument, value):
    given = {"budget": natsel.Sparsity(0.5), "data": [(X,)]} | {argument: value}
    with pytest.raises(ValueError, match=argument):
        natsel.evolve_shares(Uneven(), **given)
