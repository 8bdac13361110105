"""The order of two scores: over all pairs, ties included."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from natsel.common.errors import NonFiniteError
from natsel.common.orders import compare_orders, dense_ranks, same_order

FEW_VALUES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=7)


def by_pairs(a, b):
    """Compare all pairs, one by one."""
    signs = [
        ((x > y) - (x < y), (p > q) - (p < q))
        for (x, p), (y, q) in itertools.combinations(zip(a, b, strict=True), 2)
    ]
    return all(s == t for s, t in signs), all(s * t >= 0 for s, t in signs)


@settings(max_examples=300, deadline=None)
@given(FEW_VALUES)
def test_the_comparison_is_that_of_all_pairs(pairs):
    a, b = zip(*pairs, strict=True)
    found = compare_orders(torch.tensor(a), torch.tensor(b))
    assert (found.same, found.up_to_ties) == by_pairs(a, b)
    assert same_order(torch.tensor(a), torch.tensor(b)) == found.same
    if found.up_to_ties:
        both = len(set(pairs))
        assert (found.ties_first, found.ties_second) == (both - len(set(a)), both - len(set(b)))
        assert found.same == (found.ties_first == found.ties_second == 0)


@pytest.mark.parametrize(
    ("a", "b", "same", "up_to_ties"),
    [
        ([1, 2, 3], [10, 20, 30], True, True),
        ([1, 2, 2], [0, 5, 5], True, True),
        ([1, 2, 2], [0, 5, 6], False, True),
        ([1, 2, 3], [0, 0, 0], False, True),
        ([1, 2, 3], [3, 2, 1], False, False),
        ([1, 2, 3], [0, 1, 0], False, False),
        ([4, 4], [7, 7], True, True),
        ([4], [9], True, True),
    ],
)
def test_spelled_out(a, b, same, up_to_ties):
    found = compare_orders(torch.tensor(a), torch.tensor(b))
    assert (found.same, found.up_to_ties) == (same, up_to_ties)


def test_zero_has_no_sign_and_shapes_are_read_flat():
    assert same_order(torch.tensor([0.0, -0.0, 1.0]), torch.tensor([2, 2, 3]))
    assert same_order(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.arange(4))


def test_two_numbers_that_rounding_makes_one_are_told():
    a = torch.tensor([1e8, 1.00000008e8], dtype=torch.float32)
    assert a[0] != a[1]
    found = compare_orders(a, a.log())
    assert (found.same, found.up_to_ties, found.ties_second) == (False, True, 1)


def test_what_has_no_order_is_refused():
    with pytest.raises(NonFiniteError, match="no place in an order"):
        dense_ranks(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="3, as the first has"):
        same_order(torch.ones(3), torch.ones(4))
