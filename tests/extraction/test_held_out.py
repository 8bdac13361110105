"""Samples that are held out choose the penalty, and leave alone what would not gain."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import natsel
from natsel.extraction.absorbed import Compensation
from natsel.extraction.folds import RIDGES, Folds, Samples, chosen, held_out
from natsel.extraction.pairs import Pairs, regress


def noise(seed, rows, kept, wanted=3, folds=4):
    """Pairs of rows that say nothing of each other."""
    generator = torch.Generator().manual_seed(seed)
    found = [Pairs() for _ in range(folds)]
    for i in range(rows):
        x, y = (torch.randn(1, n, generator=generator).double() for n in (kept, wanted))
        found[i % folds].add(x, y)
    return found


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_streaming_gives_the_pairs_of_the_whole(shift):
    rows = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) + shift
    pairs = Pairs.merged([Pairs(), *_streamed(rows)])
    whole = rows.double()
    about = whole - whole.mean(0)
    expected = about.T @ about
    torch.testing.assert_close(pairs.xx, expected[:3, :3], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(pairs.xy, expected[:3, 3:], rtol=1e-4, atol=1e-3)
    assert pairs.count == 60
    assert pairs.yy == pytest.approx(float(expected[3:, 3:].trace()), rel=1e-4)
    assert pairs.lacking() == pytest.approx(float(whole[:, 3:].square().sum(1).mean()), rel=1e-6)


def _streamed(rows):
    for part in (rows[:7], rows[7:8], rows[8:]):
        pairs = Pairs()
        pairs.add(part[:1, :3], part[:1, 3:])
        pairs.add(part[1:, :3], part[1:, 3:])
        yield pairs


def test_each_fold_is_predicted_from_the_others():
    folds = noise(0, 12, 4)
    found = held_out(folds, constant=True, ridge=0.1)
    after = 0.0
    for i in range(4):
        fit = regress(
            Pairs.merged([f for j, f in enumerate(folds) if j != i]), constant=True, ridge=0.1
        )
        after += folds[i].error(fit.weights, fit.constant) / 4
    assert found.after == pytest.approx(after)
    assert found.before == pytest.approx(Pairs.merged(folds).lacking())


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), rows=st.integers(2, 40), constant=st.booleans())
def test_the_penalty_found_is_no_worse_than_its_neighbours(seed, rows, constant):
    folds = noise(seed, rows, 5)
    best = chosen(Folds(folds, constant=constant).held_out)
    place = RIDGES.index(best.ridge)
    for near in RIDGES[max(place - 1, 0) : place + 2]:
        assert best.after <= held_out(folds, constant=constant, ridge=near).after


def test_little_noise_wants_a_small_penalty_and_much_of_it_a_large_one():
    generator = torch.Generator().manual_seed(0)
    ridges = []
    for spread in (0.0, 5.0):
        folds = [Pairs() for _ in range(4)]
        for fold in folds:
            x = torch.randn(10, 6, generator=generator).double()
            y = x[:, :2] + spread * torch.randn(10, 2, generator=generator)
            fold.add(x, y)
        ridges.append(chosen(Folds(folds, constant=False).held_out).ridge)
    assert ridges[0] == RIDGES[0]
    assert ridges[1] >= 1.0


def test_rows_of_one_sample_are_in_one_fold():
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    samples = Samples([{"input_ids": mask, "attention_mask": mask}, {"input_ids": mask[:1]}])
    assert samples.folds(0, 5, 2).tolist() == [0, 0, 0, 1, 1]  # padding is no row
    assert samples.folds(1, 3, 2).tolist() == [0, 0, 0]  # the third sample
    assert samples.folds(0, 7, 2).tolist() == [0] * 7  # whose row is whose cannot be told
    assert Samples([{"input_ids": mask}]).folds(0, 5, 2).tolist() == [0, 0, 0, 1, 1]


def network(seed, width=48):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(24, width), nn.ReLU(), nn.Linear(width, 4)).double()


def halved(model, example):
    communities = natsel.discover(model, example)
    size = communities["0"].size
    return natsel.Survivors({"0": torch.arange(size) < size // 2}, communities)


@pytest.mark.parametrize("seed", range(3))
def test_few_rows_make_no_model_worse(seed):
    # Eight rows for 24 kept inputs: fitted, the error is nearly nothing; elsewhere it would grow.
    model = network(seed)
    generator = torch.Generator().manual_seed(seed)
    few, others = (torch.randn(n, 24, generator=generator).double() for n in (8, 4000))
    survivors = halved(model, others[:2])
    plain = natsel.extract(model, survivors)
    errors = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for ridge in (None, 1e-3):
            small = natsel.extract(model, survivors)
            told = natsel.compensate(model, small, survivors, [(few,)], ridge=ridge)
            with torch.no_grad():
                errors[ridge] = float((model(others) - small(others)).square().mean())
    with torch.no_grad():
        before = float((model(others) - plain(others)).square().mean())
    assert told.consumers[0].error_fitted < 0.05 * told.consumers[0].error_after
    assert errors[None] < 1.02 * before
    assert errors[None] <= errors[1e-3]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 30), sequential=st.booleans())
def test_what_is_changed_is_better_where_it_was_held_out(seed, rows, sequential):
    model = network(seed, 12)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 24, generator=generator).double()
    survivors = halved(model, torch.zeros(2, 24).double())
    small = natsel.extract(model, survivors)
    before = {n: t.clone() for n, t in small.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = natsel.compensate(model, small, survivors, [(x,)], sequential=sequential)
    (line,) = told.consumers
    if line.reason:
        assert all(torch.equal(t, before[n]) for n, t in small.state_dict().items())
        assert told.tensors == ()
    else:
        assert line.error_after < line.error_before
        assert line.ridge in RIDGES
    assert rows > 1 or "nothing to hold out" in line.reason or "gave it nothing" in line.reason


def test_the_summary_says_what_was_held_out_and_how_many_were_left():
    model = network(0)
    x = torch.randn(400, 24, generator=torch.Generator().manual_seed(1)).double()
    survivors = halved(model, x[:2])
    small = natsel.extract(model, survivors)
    told = natsel.compensate(model, small, survivors, [(x,)])
    (line,) = told.consumers
    shares = f"{line.error_before:.1%} -> {line.error_after:.1%}"
    assert line.error_fitted < line.error_after < line.error_before
    expected = f"compensated 1 of 1 consumers: held-out squared error in their outputs {shares}"
    assert told.summary() == f"{expected} (median)"
    left = replace(line, reason="its held-out error would not fall")
    both = Compensation((line, left))
    assert f"compensated 1 of 2 consumers: held-out squared error in their outputs {shares}" in (
        both.summary()
    )
    assert "; 1 left as they are: 2.weight (its held-out error would not fall)" in both.summary()
    assert Compensation.from_dict(both.to_dict()) == both


def test_a_file_from_before_anything_was_held_out_loads():
    line = {"consumer": "a.weight", "communities": ["a"], "kept": 1, "removed": 1, "reason": ""}
    line |= {"effective_rank": 1.0, "rows": 3, "unexplained": 0.5}
    line |= {"error_before": 0.5, "error_after": 0.1}
    told = Compensation.from_dict({"consumers": [line], "tensors": [], "renormalized": 0})
    assert (told.consumers[0].error_after, told.consumers[0].error_fitted) == (None, 0.1)
    assert "50.0% -> 10.0% (median, in the very samples" in told.summary()
