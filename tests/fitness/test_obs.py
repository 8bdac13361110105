"""The others take over, exactly as a regression that is done again after each removal says."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import natsel.fitness.obs as module
from natsel.fitness.obs import GroupSurgeon, Surgeon, obs
from natsel.fitness.registry import Part, Parts


def lost(columns, second, gone):
    """What a consumer lacks without some columns, the others fitted again, damping and all."""
    h = second + module.DAMPING * second.diagonal().mean() * torch.eye(len(second)).double()
    left = [i for i in range(len(h)) if i not in gone]
    fitted = columns.T @ h[:, left] @ torch.linalg.inv(h[left][:, left])
    whole = torch.zeros_like(columns.T)
    whole[:, left] = fitted
    rest = columns.T - whole
    return float(((rest @ h) * rest).sum())


def drawn(seed, n, m):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3 * n, n, generator=generator).double()
    mixed = rows @ torch.randn(n, n, generator=generator).double()
    return torch.randn(n, m, generator=generator).double(), mixed.T @ mixed / len(rows)


def part(columns, second, index=None):
    n = len(columns)
    whole = index is None
    index = torch.arange(n).reshape(n, 1) if whole else index
    return Part(columns.T, None, 1, index, whole, second)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), pending=st.sampled_from([1, 2, 100]))
def test_each_removal_costs_what_a_new_fit_says(seed, pending):
    before, module.PENDING = module.PENDING, pending
    try:
        columns, second = drawn(seed, 6, 3)
        surgeon, gone = Surgeon(columns, second), []
        for i in (4, 0, 3, 5):
            without = lost(columns, second, gone)
            costs = surgeon.costs()
            for j in set(range(6)) - set(gone):
                expected = lost(columns, second, [*gone, j]) - without
                assert float(costs[j]) == pytest.approx(expected, rel=1e-6, abs=1e-9)
            surgeon.remove(i)
            gone.append(i)
    finally:
        module.PENDING = before


def test_heads_cost_what_a_new_fit_says():
    columns, second = drawn(1, 6, 3)
    index = torch.tensor([[0, 3], [1, 4], [2, 5]])
    surgeon = GroupSurgeon(columns, second, index)
    first = [lost(columns, second, pair) for pair in ([0, 3], [1, 4], [2, 5])]
    assert surgeon.costs().tolist() == pytest.approx(first)
    surgeon.remove(1)
    costs = surgeon.costs()
    assert costs[1] == torch.inf
    for i, pair in ((0, [0, 3]), (2, [2, 5])):
        assert float(costs[i]) == pytest.approx(lost(columns, second, [1, 4, *pair]) - first[1])


def test_the_first_to_go_is_the_one_that_the_others_can_say():
    # The third is the sum of the first two, and weighs most.
    rows = torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 1, 2], [2, -1, 1]]).double()
    columns = torch.tensor([[1.0], [1.0], [9.0]]).double()
    second = rows.T @ rows / 4
    scores = obs(Parts((part(columns, second),), (), torch.ones(3)))
    best = min(range(3), key=lambda i: lost(columns, second, [i]))
    assert int(scores.argmin()) == best
    assert float(scores.min()) ** 2 < 0.01 * float(columns[2] ** 2 * second[2, 2])


def test_of_two_that_say_the_same_one_stays():
    second = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]).double()
    columns = torch.tensor([[5.0], [5.0], [1.0]]).double()
    order = obs(Parts((part(columns, second),), (), torch.ones(3))).argsort().tolist()
    assert order[:2] in ([0, 2], [1, 2])


def test_several_consumers_add_up_and_masses_count():
    (one, a), (two, b) = drawn(2, 5, 2), drawn(3, 5, 4)
    mass = torch.tensor([1.0, 0.5, 1.0, 0.0, 2.0])
    scores = obs(Parts((part(one, a), part(two, b)), (), mass))
    scaled = [c * mass.double()[:, None] for c in (one, two)]
    order, gone = [], []
    for _ in range(5):
        left = [i for i in range(5) if i not in gone]
        costs = [lost(scaled[0], a, [*gone, i]) + lost(scaled[1], b, [*gone, i]) for i in left]
        gone.append(left[costs.index(min(costs))])
        order.append(gone[-1])
    assert scores.argsort().tolist() == order
    assert order[0] == 3


def test_what_nothing_enters_is_worth_nothing():
    columns, second = drawn(4, 3, 2)
    assert obs(Parts((part(columns, torch.zeros(3)),), (), torch.ones(3))).tolist() == [0.0] * 3
    assert all(lost(columns, second, [i, j]) > 0 for i, j in itertools.combinations(range(3), 2))
