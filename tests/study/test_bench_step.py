"""The structure of the benchmark; no test of a time."""

import math

import pytest
import torch

from natsel.study.bench_step import bench_step, make_step, peak_memory, resident, time_ratio


def test_rows():
    seen = []
    result = bench_step(
        batch_size=4, repeats=2, progress=lambda what, done, total: seen.append((done, total))
    )
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    cases = [(r["optimizer"], r["every"]) for r in result["rows"]]
    assert cases == [("Adam", 1), ("Adam", 5), ("Adam, fused", 1), ("Adam, fused", 5)]
    for row in result["rows"]:
        assert row["dynamics"] == "logistic"
        assert row["num_steps"] >= 3 * 5 + 2 * 5  # warm-up and 2 blocks of 5, all of them evolved
        for name in ("ratio", "memory_ratio", "plain_ms", "evolving_ms"):
            assert math.isfinite(row[name])
            assert row[name] > 0
        assert row["quartile_low"] <= row["ratio"] <= row["quartile_high"]


def test_both_steps_take_turns():
    calls = []
    time_ratio(lambda: calls.append("p"), lambda: calls.append("e"), repeats=2, block=2, warm_up=6)
    assert "".join(calls) == "p" * 6 + "e" * 6 + "ppee" + "eepp"


def test_the_evolving_step_evolves():
    step, evolution = make_step(dynamics="logistic", fused=False, batch_size=4)
    before = {name: mass.clone() for name, mass in evolution.masses.items()}
    step()
    assert evolution.num_steps == 1
    assert any(not torch.equal(before[n], m) for n, m in evolution.masses.items())
    plain, none = make_step(dynamics=None, fused=False, batch_size=4)
    assert none is None
    plain()


def test_memory_counts_parameters_their_state_and_the_evolution():
    plain, _ = make_step(dynamics=None, fused=False, batch_size=4)
    plain()
    parameters = (784 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10) * 4
    assert 4 * parameters <= resident(plain) < 4.05 * parameters  # weight, gradient, two moments
    evolving, evolution = make_step(dynamics="logistic", fused=False, batch_size=4)
    evolving()
    masses = 4 * 768 * 4  # mass, average, alive, below
    recorded = evolution.trajectory.masses.numel() * 4
    assert resident(evolving) - resident(plain) >= masses + recorded
    assert peak_memory(plain) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dynamics": "logistik"}, "^dynamics='logistik'"),
        ({"batch_size": 0}, "^batch_size=0"),
        ({"repeats": 0}, "^repeats=0"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        bench_step(**changes)
