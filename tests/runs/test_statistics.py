"""Intervals and tests against scipy, against formulas written out, and against their laws."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from natsel.runs.statistics import holm, mean_interval, paired, proportion_interval

accuracies = st.floats(0, 1, allow_subnormal=False)
p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(st.lists(accuracies, min_size=2, max_size=12).filter(lambda v: max(v) - min(v) > 1e-6))
def test_mean_interval_is_students(values):
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values)
    )
    interval = mean_interval(values)
    assert interval.mean == pytest.approx(sum(values) / len(values))
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))
    assert interval.n == len(values)


def test_one_value_is_its_own_interval():
    assert mean_interval([0.3]) == (0.3, 0.3, 0.3, 1)


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5, 3)


def test_more_confidence_is_wider():
    values = [0.1, 0.4, 0.2]
    assert mean_interval(values, 0.99).high > mean_interval(values, 0.95).high


def test_no_value_is_refused():
    with pytest.raises(ValueError, match=r"^values=\[\] is not allowed"):
        mean_interval([])


def wilson(correct, total):
    """Return the interval of Wilson (1927), solved by hand."""
    z, share = 1.959963984540054, correct / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = (
        z
        * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
        / (1 + z * z / total)
    )
    return middle - half, middle + half


@given(st.integers(1, 20000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_proportion_interval_is_wilsons(counts):
    correct, total = counts
    interval = proportion_interval(correct, total)
    low, high = wilson(correct, total)
    assert interval.low == pytest.approx(low, abs=1e-9)
    assert interval.high == pytest.approx(high, abs=1e-9)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.n == total


@pytest.mark.parametrize(("correct", "total"), [(-1, 10), (11, 10), (0, 0)])
def test_impossible_counts_are_refused(correct, total):
    with pytest.raises(ValueError, match=f"^correct={correct} is not allowed"):
        proportion_interval(correct, total)


def test_paired_test_by_hand():
    # Differences 1, 1, 1.1: mean 31/30, standard error 1/30, t = 31 with 2 degrees of freedom.
    result = paired([2.0, 3.0, 4.1], [1.0, 2.0, 3.0])
    assert result.difference == pytest.approx(31 / 30)
    assert result.p_value == pytest.approx(2 * stats.t.sf(31, 2), rel=1e-6)
    half = stats.t.ppf(0.975, 2) / 30
    assert result.low == pytest.approx(31 / 30 - half)
    assert result.high == pytest.approx(31 / 30 + half)


@given(st.lists(st.tuples(accuracies, accuracies), min_size=2, max_size=8))
def test_paired_is_antisymmetric_and_its_interval_agrees_with_its_p_value(pairs):
    first, second = [list(side) for side in zip(*pairs, strict=True)]
    one, other = paired(first, second), paired(second, first)
    assert one.difference == pytest.approx(-other.difference)
    assert one.low == pytest.approx(-other.high)
    assert one.p_value == pytest.approx(other.p_value)
    assert 0 <= one.p_value <= 1
    if abs(one.p_value - 0.05) > 1e-3 and one.high - one.low > 1e-9:
        assert (one.p_value < 0.05) == (not one.low <= 0 <= one.high)


@pytest.mark.parametrize(
    ("shift", "n", "p_value"), [(0.0, 2, 1.0), (0.1, 2, 0.5), (-0.1, 5, 1 / 16)]
)
def test_paired_without_spread_is_a_sign_test(shift, n, p_value):
    second = [0.5, 0.7, 0.3, 0.1, 0.2][:n]
    result = paired([value + shift for value in second], second)
    assert result.difference == pytest.approx(shift)
    assert result.p_value == pytest.approx(p_value)


@pytest.mark.parametrize(("first", "second"), [([1.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_paired_needs_two_pairs(first, second):
    with pytest.raises(ValueError, match=r"^second="):
        paired(first, second)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.5; times 4, 3, 2, 1; then never below the one before.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([]) == []


@given(p_lists)
def test_holm_lies_between_the_plain_and_the_bonferroni_p_value(p_values):
    corrected = holm(p_values)
    for plain, value in zip(p_values, corrected, strict=True):
        assert plain <= value <= min(1.0, plain * len(p_values)) + 1e-12


@given(p_lists, st.randoms())
def test_holm_keeps_the_order_and_does_not_depend_on_it(p_values, random):
    corrected = holm(p_values)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)
    random.shuffle(order)
    assert holm([p_values[i] for i in order]) == [corrected[i] for i in order]
