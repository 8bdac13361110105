"""Exact counts, floors and ties among entries, on arrays that are spelled out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import natsel
from natsel.live_populations.allowances import Bytes, Held, allowed_of
from natsel.live_populations.choosing import (
    floored,
    normalized,
    places,
    survivors_each,
    survivors_together,
)
from natsel.live_populations.floors import Floor

YES = torch.ones(1, 2, 4, dtype=torch.bool)


def test_ties_stay_by_lower_index_and_the_dead_never_do():
    scores = torch.tensor([[[5.0, 5.0, 5.0, 9.0], [1.0, 2.0, 2.0, 2.0]]])
    alive = torch.tensor([[[True, True, True, False], [True, True, True, True]]])
    keep = survivors_each(scores, alive, ~YES, torch.tensor([2]))
    assert keep.int().tolist() == [[[1, 1, 0, 0], [0, 1, 1, 0]]]


def test_the_protected_come_before_the_fittest():
    scores = torch.tensor([[[9.0, 8.0, 7.0, 0.0], [0.0, 7.0, 8.0, 9.0]]])
    protected = torch.tensor([[[False, False, False, True], [True, False, False, False]]])
    keep = survivors_each(scores, YES, protected, torch.tensor([2]))
    assert keep.int().tolist() == [[[1, 0, 0, 1], [1, 0, 0, 1]]]


def test_each_row_of_a_batch_has_its_own_count():
    scores = torch.arange(4.0).expand(2, 1, 4)
    yes = torch.ones(2, 1, 4, dtype=torch.bool)
    keep = survivors_each(scores, yes, ~yes, torch.tensor([1, 3]))
    assert keep.int().tolist() == [[[0, 0, 0, 1]], [[0, 1, 1, 1]]]


def test_sinks_and_window_are_counted_among_the_living():
    alive = torch.tensor([[[False, False, True, True, True, True, True, False]]])
    stays = floored(alive, torch.tensor([1]), torch.tensor([2]))
    assert stays.int().tolist() == [[[0, 0, 1, 0, 0, 1, 1, 0]]]


def test_heads_that_share_hold_different_counts_and_the_sum_is_exact():
    scores = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])
    two, one, none = torch.tensor([2]), torch.tensor([1]), None
    (keep,) = survivors_together([scores], [YES], [~YES], two, one, none)
    assert keep.int().tolist() == [[[0, 0, 0, 1], [0, 1, 1, 1]]]  # a head keeps one at least
    (keep,) = survivors_together([scores], [YES], [~YES], two, two, none)
    assert keep.int().tolist() == [[[0, 0, 1, 1], [0, 0, 1, 1]]]
    first, second = survivors_together(
        [scores, scores + 10], [YES, YES], [~YES, ~YES], two, one, none
    )
    assert first.int().tolist() == [[[0, 0, 0, 1], [0, 0, 0, 1]]]
    assert second.int().tolist() == [[[0, 0, 1, 1], [1, 1, 1, 1]]]


def test_normalising_makes_heads_of_other_scales_comparable():
    scores = torch.tensor([[[1.0, 3.0, 2.0, 2.0], [10.0, 30.0, 20.0, 20.0]]])
    mean = normalized(scores, YES, "mean")
    assert torch.equal(mean[0, 0], mean[0, 1])
    assert mean[0, 0].tolist() == [0.5, 1.5, 1.0, 1.0]
    assert normalized(scores, YES, "rank")[0, 0].tolist() == pytest.approx([0, 1, 2 / 3, 1 / 3])
    alive = torch.tensor([True, True, False, False]).expand(1, 2, 4)
    assert normalized(scores, alive, "mean")[0, 0, :2].tolist() == [0.5, 1.5]


@pytest.mark.filterwarnings("ignore:scores are all")
@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 12),
    st.floats(0, 0.99),
    st.integers(0, 2**32 - 1),
)
def test_every_head_keeps_what_a_selection_of_natsel_keeps(rows, heads, n, share, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (rows, heads, n), generator=generator).double()  # with many ties
    yes = torch.ones(rows, heads, n, dtype=torch.bool)
    budget = natsel.Sparsity(share)
    assume(budget.count(n) < n)
    allowed = allowed_of(budget, n)
    keep = survivors_each(scores, yes, ~yes, torch.tensor([allowed] * rows))
    communities = {f"{r}.{h}": scores[r, h] for r in range(rows) for h in range(heads)}
    expected = natsel.select(communities, budget)
    for r in range(rows):
        for h in range(heads):
            assert torch.equal(keep[r, h], expected[f"{r}.{h}"])
    assert int(keep.sum()) == rows * heads * (n - budget.count(n))


@settings(max_examples=60)
@given(st.data())
def test_counts_and_floors_hold_for_any_shape(data):
    rows, heads, n = (data.draw(st.integers(1, most)) for most in (3, 4, 12))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32 - 1)))
    living = torch.rand(rows, 1, n, generator=generator) < 0.8
    living[..., -1] = True
    alive = living.expand(rows, heads, n).clone()
    scores = torch.randn(rows, heads, n, generator=generator)
    counts = torch.tensor([data.draw(st.integers(1, int(r.sum()))) for r in living[:, 0]])
    fitted = [
        Floor(data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))).within(int(c), n)
        for c in counts
    ]
    sinks, window, least = (torch.tensor([f[i] for f in fitted]) for i in range(3))
    protected = floored(alive, sinks, window)
    each = survivors_each(scores, alive, protected, counts)
    (shared,) = survivors_together([scores], [alive], [protected], counts, least)
    for keep in (each, shared):
        assert not bool((keep & ~alive).any())
        assert not bool((protected & ~keep).any())
        assert torch.equal(keep.sum((1, 2)), counts * heads)
    assert torch.equal(each.sum(-1), counts[:, None].expand(rows, heads))
    assert bool((shared.sum(-1) >= least[:, None]).all())


def test_places_are_a_permutation_of_every_community():
    scores = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    yes = torch.ones(2, 3, 7, dtype=torch.bool)
    assert torch.equal(places(scores, yes, ~yes).sort(-1).values, torch.arange(7).expand(2, 3, 7))


@pytest.mark.parametrize(
    ("budget", "seen", "allowed"),
    [
        (natsel.Sparsity(0.75), 10, 2),  # eight of ten go, halves up
        (natsel.Sparsity(0.9), 1, 1),  # one stays
        (natsel.Sparsity(0.0), 5, 5),
        (Held(3), 10, 3),
        (Held(3), 2, 2),
        (Bytes(100), 10, 6),
        (None, 7, 7),
    ],
)
def test_what_may_stay(budget, seen, allowed):
    assert allowed_of(budget, seen, bytes_each=16) == allowed


def test_bytes_that_hold_nobody_are_refused():
    with pytest.raises(ValueError, match="at least 16 bytes: one entry in every head and layer"):
        allowed_of(Bytes(15), 4, bytes_each=16)
