"""The structure of the benchmark; no test of a time."""

import itertools
import math

import pytest
import torch

from natsel_bench import step as bench
from natsel_bench.step import Training, bench_step, check, peak_memory, resident, time_ratios


def test_rows():
    seen = []
    result = bench_step(
        batch_size=4, quick=True, progress=lambda what, done, total: seen.append((done, total))
    )
    assert seen == [(0, 2), (1, 2), (2, 2)]
    cases = [(r["optimizer"], r["every"]) for r in result["rows"]]
    assert cases == list(itertools.product(("Adam", "Adam, fused"), (1, 5, 10)))
    for row in result["rows"]:
        assert (row["dynamics"], row["network"], row["compiled"]) == ("logistic", "mlp", False)
        assert row["batch_size"] == result["batch_size"] == 4
        assert row["num_steps"] == 1 + 2 + 2  # one to warm up, two timed, two for the memory
        for name in ("ratio", "memory_ratio", "plain_ms", "evolving_ms"):
            assert math.isfinite(row[name])
            assert row[name] > 0
        assert row["quartile_low"] <= row["ratio"] <= row["quartile_high"]
    assert result["compile_error"] is None


def test_every_network_and_law(monkeypatch):
    monkeypatch.setattr(bench, "EVERY", (1,))
    result = bench_step(network="all", batch_size=2, quick=True)
    assert [r["network"] for r in result["rows"]] == ["mlp", "mlp", "vit", "vit"]
    assert result["network"].startswith("784-512-256-10, ViT")
    assert result["batch_size"] == {"mlp": 2, "vit": 2}
    result = bench_step(dynamics="all", batch_size=2, quick=True)
    assert [r["dynamics"] for r in result["rows"][::2]] == list(bench.DYNAMICS)


def test_compiled_rows_follow_the_eager_ones(monkeypatch):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend="eager"))
    result = bench_step(batch_size=2, quick=True, compiled=True)
    assert [r["compiled"] for r in result["rows"]] == [False] * 6 + [True] * 6


def test_without_a_compiler_the_eager_rows_stay_and_one_line_says_why(monkeypatch):
    def fails(model):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", fails)
    result = bench_step(batch_size=2, quick=True, compiled=True)
    assert [r["compiled"] for r in result["rows"]] == [False] * 6
    assert result["compile_error"].endswith("nothing was compiled: no C++ compiler")


def test_the_steps_take_turns():
    calls = []
    steps = [lambda name=name: calls.append(name) for name in "pef"]
    found = time_ratios(steps[0], steps[1:], repeats=2, block=2, warm_up=3)
    assert "".join(calls) == "ppp" + "eee" + "fff" + "ppeeff" + "ffeepp"
    assert len(found) == 2


def test_the_evolving_step_evolves():
    evolving, plain = Training(dynamics="logistic"), Training(dynamics=None)
    before = {name: mass.clone() for name, mass in evolving.evolution.masses.items()}
    with pytest.raises(AssertionError, match="no mass moved"):
        check(plain, evolving)
    evolving()
    with pytest.raises(AssertionError, match="steps differ"):
        check(plain, evolving)
    plain()
    check(plain, evolving)
    assert evolving.evolution.num_steps == 1
    assert any(not torch.equal(before[n], m) for n, m in evolving.evolution.masses.items())
    with pytest.raises(AssertionError, match="nothing evolved"):
        check(plain, plain)
    next(iter(plain.model.parameters())).data.fill_(float("nan"))
    with pytest.raises(AssertionError, match="not finite"):
        check(plain, evolving)


def test_memory_counts_parameters_their_state_and_the_evolution():
    plain = Training(dynamics=None, batch_size=4)
    plain()
    parameters = (784 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10) * 4
    assert 4 * parameters <= resident(plain) < 4.05 * parameters  # weight, gradient, two moments
    evolving = Training(dynamics="logistic", batch_size=4)
    evolving()
    masses = 4 * 768 * 4  # mass, average, alive, below
    recorded = evolving.evolution.trajectory.masses.numel() * 2
    assert resident(evolving) - resident(plain) >= masses + recorded
    assert peak_memory(plain) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dynamics": "logistik"}, "^dynamics='logistik'"),
        ({"network": "mpl"}, "^network='mpl'.*'mlp'"),
        ({"batch_size": 0}, "^batch_size=0"),
        ({"repeats": 0}, "^repeats=0"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        bench_step(**changes)
