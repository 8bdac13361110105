"""An error is measured by what the removal changes, not by how large the outputs are."""

import pytest
import torch

from natsel.communities.proof.gap import ROUNDING, TOLERANCE, VISIBLE, apart, gap

DENSE = torch.tensor([1000.0, 3.0], dtype=torch.float64)
MASKED = torch.tensor([1000.0, 1.0], dtype=torch.float64)


def shifted(x, by):
    return x + torch.tensor([0.0, by], dtype=torch.float64)


def test_relative_to_the_effect():
    found = gap([shifted(MASKED, 0.5)], [MASKED], [DENSE])
    assert found.error == 0.5
    assert found.effect == 2.0
    assert found.relative == 0.25
    assert found.visible
    assert not found.within()


@pytest.mark.parametrize(("error", "passes"), [(0.9, True), (1.1, False)])
def test_a_billionth_of_the_effect(error, passes):
    found = gap([shifted(MASKED, error * TOLERANCE * 2.0)], [MASKED], [DENSE])
    assert found.within() is passes


def test_each_output_by_its_own_effect():
    """An error in a small output is not hidden by the effect in a large one."""
    small, masked, dense = (torch.tensor([v]).double() for v in (1e-6, 2e-6, 4e-6))
    found = gap([MASKED, small], [MASKED, masked], [DENSE, dense])
    assert found.relative == pytest.approx(0.5)


def test_without_an_effect_only_rounding_may_differ():
    assert gap([DENSE], [DENSE], [DENSE]).within()
    assert not gap([DENSE], [DENSE], [DENSE]).visible
    assert gap([DENSE * (1 + ROUNDING / 4)], [DENSE], [DENSE]).within()
    assert not gap([DENSE * (1 + ROUNDING * 4)], [DENSE], [DENSE]).within()


def test_an_effect_near_rounding_does_not_show():
    masked = DENSE * (1 - VISIBLE / 2)
    assert not gap([masked], [masked], [DENSE]).visible


def test_where_only_zeros_are_left_nothing_shows():
    zeros = torch.zeros(2).double()
    assert not gap([zeros], [zeros], [DENSE]).visible


def test_other_shapes_and_values_that_are_none():
    assert not gap([DENSE[:1]], [MASKED], [DENSE]).within()
    assert not gap([], [MASKED], [DENSE]).within()
    for wrong in (float("nan"), float("inf")):
        assert not gap([DENSE * wrong], [MASKED], [DENSE]).within()
        assert not gap([DENSE * wrong], [DENSE * wrong], [DENSE]).within()


def test_a_mask_of_infinities_that_is_returned_is_left_out():
    mask = torch.tensor([float("-inf"), 0.0, 1.0]).double()
    assert gap([mask], [mask], [mask]).within()
    assert gap([], [], []) == gap([torch.empty(0)], [torch.empty(0)], [torch.empty(0)])


def test_apart_is_measured_where_both_are_finite():
    inf, nan = float("inf"), float("nan")
    ours = torch.tensor([1.0, inf, nan, 4.0, 2.0]).half()
    theirs = torch.tensor([1.5, 3.0, nan, inf, 2.0]).half()
    assert apart(ours, theirs) == (0.5, 2.0)
    assert apart(ours[1:3], theirs[1:3]) == (0.0, 0.0)
    assert apart(torch.tensor([3, 5]), torch.tensor([3, 4])) == (1.0, 4.0)


def test_a_number_that_is_none_in_one_output_is_not_lost_among_others():
    nan = torch.tensor([float("nan")]).double()
    for outputs in ([DENSE, nan], [nan, DENSE]):
        dense = [torch.ones_like(x) if x is nan else x for x in outputs]
        assert not gap(outputs, dense, dense).finite
