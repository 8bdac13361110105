"""The structure of the benchmark of extraction, and that it sees a wrong one; no test of a time."""

import math

import pytest
import torch
from torch import nn

import natsel_bench.extract as room
from natsel_bench.extract import bench_extract, in_turn, verdict


def test_rows():
    seen = []
    result = bench_extract(
        quick=True, progress=lambda what, done, total: seen.append((done, total))
    )
    assert seen == [(i, 10) for i in range(11)]
    assert [(r["network"], r["mode"], r["batch_size"]) for r in result["latency"]] == [
        (network, "eager", size) for network in room.SMALL for size in (1, 64)
    ]
    for row in result["latency"]:
        assert row["missing"] == ""
        assert 0.3 < row["macs_ratio"] <= 0.5
        assert row["quartile_low"] <= row["ratio"] <= row["quartile_high"]
        assert all(math.isfinite(row[n]) and row[n] > 0 for n in ("dense_ms", "small_ms", "rate"))
    assert [(r["size"], r["sparsity"]) for r in result["csr"]] == [
        (64, 0.7),
        (64, 0.8),
        (64, 0.9),
        (64, 0.95),
    ]
    assert result["depth"] == []


def test_passes_take_turns_and_the_first_ones_do_not_count():
    calls = []

    class Named(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            calls.append(self.name)
            return x

    found = room.passes({"a": Named("a"), "b": Named("b")}, (torch.zeros(1),), repeats=2)
    assert "".join(calls) == "a" * room.WARM_UP + "b" * room.WARM_UP + "abba"
    assert {name: len(times) for name, times in found.items()} == {"a": 2, "b": 2}


def test_ratios_are_of_passes_that_followed_each_other(monkeypatch):
    times = {"dense": [1.0, 2.0, 4.0], "small": [0.5, 2.0, 1.0]}
    monkeypatch.setattr(room, "passes", lambda models, inputs, *, repeats: times)
    found = in_turn({}, (), repeats=3)
    assert found["ratio"] == 0.5
    assert (found["dense_ms"], found["small_ms"]) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("ratio", "macs", "rate", "said"),
    [
        (0.5, 0.5, 1.0, "within 1.25 of the ideal"),
        (0.625, 0.5, 0.1, "within 1.25 of the ideal"),
        (0.8, 0.5, 0.5, "1.60 of the ideal"),
        (0.8, 0.5, 0.49, "not compute-bound (49% of the rate of a large product): fewer MACs"),
    ],
)
def test_a_plain_statement(ratio, macs, rate, said):
    assert verdict(ratio, macs, rate=rate).startswith(said)


def test_a_missing_compiler_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(room.shutil, "which", lambda name: None)
    found = room._timed({"dense": nn.Linear(2, 2)}, (torch.zeros(1, 2),), "compile", 1)
    assert found == {
        "missing": "torch.compile needs a C++ compiler, and neither g++ nor clang++ is here"
    }


def test_a_compiler_that_fails_is_one_clear_line(monkeypatch):
    def fails(model):
        raise RuntimeError("no such target\nand more")

    monkeypatch.setattr(room.shutil, "which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(room, "_compiled", fails)
    found = room._timed({"dense": nn.Linear(2, 2)}, (torch.zeros(1, 2),), "compile", 1)
    assert found == {"missing": "torch.compile failed: no such target"}


def test_a_small_model_that_is_wrong_ends_it(monkeypatch):
    def spoiled(model, survivors):
        small = room_extract(model, survivors)
        with torch.no_grad():
            next(small.parameters()).add_(1)
        return small

    room_extract = room.extract
    monkeypatch.setattr(room, "extract", spoiled)
    with pytest.raises(ArithmeticError, match="differs from the masked one"):
        bench_extract(quick=True)


def test_a_sparse_layer_that_is_wrong_ends_it(monkeypatch):
    class Wrong:
        @staticmethod
        def of(linear, mask):
            return nn.Linear(linear.in_features, linear.out_features)

    monkeypatch.setattr(room, "CsrLinear", Wrong)
    with pytest.raises(ArithmeticError, match="compressed rows differs"):
        bench_extract(quick=True)


@pytest.mark.parametrize("repeats", [0, -1, True, 2.0])
def test_refuses_counts(repeats):
    with pytest.raises(ValueError, match=r"^repeats="):
        bench_extract(repeats=repeats)
