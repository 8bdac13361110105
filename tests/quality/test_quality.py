"""Means, intervals and tests of what models are worth, against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from natsel.common.errors import NonFiniteError
from natsel.quality import Losses, accuracy_of, advice, quality_of


def made(totals, counted=None):
    totals = torch.tensor(totals, dtype=torch.float64)
    counts = torch.full((len(totals),), 4) if counted is None else torch.tensor(counted)
    return Losses(totals, counts, torch.zeros(len(totals), dtype=torch.int64))


@given(st.lists(st.tuples(st.floats(1, 40), st.floats(1, 40)), min_size=3, max_size=12))
def test_windows_of_one_length_give_students_interval_and_the_paired_t_test(pairs):
    one, other = ([p[i] for p in pairs] for i in (0, 1))
    found = quality_of(made(other), made(one), measure="perplexity")
    assert found.paired is not None
    for interval, totals in ((found.before, one), (found.after, other)):
        means = np.array(totals) / 4
        low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means) or 1e-300)
        assert interval.mean == pytest.approx(math.exp(means.mean()))
        assert interval.low == pytest.approx(math.exp(low))
        assert interval.high == pytest.approx(math.exp(high))
        assert interval.n == len(pairs)
    assert found.ratio == pytest.approx(found.after.mean / found.before.mean)
    assert math.exp(found.paired.difference) == pytest.approx(found.ratio)
    if np.ptp(np.subtract(other, one)) > 1e-6:
        assert found.paired.p_value == pytest.approx(stats.ttest_rel(other, one).pvalue, abs=1e-9)


def test_windows_of_several_lengths_count_as_many_tokens_as_they_have():
    found = quality_of(made([1.0, 10.0], [1, 9]), measure="loss")
    assert found.after.mean == pytest.approx(11 / 10)
    # r = 1.1; residuals 1 - 1.1 and 10 - 9.9; s^2 = 2 / 1 * 0.02 / 100
    half = stats.t.ppf(0.975, 1) * math.sqrt(0.0004)
    assert found.after.high == pytest.approx(1.1 + half)
    assert found.before is found.ratio is found.paired is None


def test_a_token_is_no_observation_of_its_own():
    """Twice the tokens in the same windows make no interval narrower."""
    short = quality_of(made([8.0, 9.0, 10.0]), measure="perplexity")
    long = quality_of(made([16.0, 18.0, 20.0], [8, 8, 8]), measure="perplexity")
    assert long.after == pytest.approx(short.after)


def test_accuracy_of_samples_is_compared_by_mcnemar():
    before, after = torch.tensor([1, 1, 1, 1, 1, 0]), torch.zeros(6).long()
    found = accuracy_of(after, torch.ones(6).long(), before)
    assert found.paired.test == "exact McNemar test"
    assert found.paired.p_value == 0.0625
    assert found.paired.difference == pytest.approx(-5 / 6)
    assert found.ratio == 0.0
    assert accuracy_of(before, torch.ones(6).long(), after).ratio is None


def test_plain_data_hold_the_contract():
    plain = quality_of(made([9.0, 10.0]), made([8.0, 8.5]), measure="perplexity").plain()
    assert set(plain) >= {"measure", "before", "after", "ratio", "paired", "summary"}
    for side in ("before", "after"):
        assert set(plain[side]) == {"mean", "low", "high", "n"}
    assert plain["paired"]["test"] == "paired t-test over windows"
    assert plain["paired"]["of"] == "log-perplexity"
    assert plain["summary"].startswith("perplexity 7.86")


def test_a_single_window_decides_nothing_and_a_huge_loss_overflows_nothing():
    found = quality_of(made([4000.0]), made([4.0]), measure="perplexity")
    assert found.paired.p_value == 1.0
    assert found.after.mean == math.exp(700)
    assert math.isfinite(found.ratio)
    assert found.summary()


def test_what_is_not_comparable_is_refused():
    with pytest.raises(ValueError, match="the same samples"):
        quality_of(made([1.0, 2.0]), made([1.0]), measure="loss")
    with pytest.raises(ValueError, match="measure='bleu'"):
        quality_of(made([1.0]), measure="bleu")
    with pytest.raises(NonFiniteError, match="the loss of the model is NaN"):
        quality_of(made([float("nan")]), made([1.0]), measure="loss")


def test_advice_names_what_was_not_used():
    doubled = quality_of(made([12.0, 12.2]), made([8.0, 8.1]), measure="perplexity")
    told = advice(doubled, data_aware=False, compensated=False)
    assert told.startswith("the perplexity is 2.7")
    assert all(word in told for word in ("joint, with --data", "--compensate", "natsel recover"))
    told = advice(doubled, data_aware=True, compensated=True)
    assert "natsel recover" in told
    assert "joint" not in told
    assert "--compensate" not in told
    same = quality_of(made([8.1, 8.0]), made([8.0, 8.1]), measure="perplexity")
    assert advice(same, data_aware=False, compensated=False) is None
