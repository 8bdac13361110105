"""Budgets of time: how the search goes, on readings that are spelled out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import natsel
import natsel.selection.latency as room
from natsel import Latency, select


@pytest.fixture(scope="module")
def communities():
    return natsel.discover(
        nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4)
    )


@pytest.fixture
def clock(monkeypatch):
    """A device on which a pass takes 10 ms and 1 ms for each hidden neuron."""
    log = []

    def time_in_turn(models, inputs, *, repeats):
        widths = {name: model[0].out_features for name, model in models.items()}
        log.append((widths["small"], tuple(inputs[0].shape), repeats))
        return {name: [10.0 + width] * repeats for name, width in widths.items()}

    monkeypatch.setattr(room, "time_in_turn", time_in_turn)
    return log


def num_kept(survivors):
    return int(survivors["0"].sum())


@pytest.mark.parametrize("scope", ["community", "global"])
def test_the_largest_model_that_is_fast_enough_is_found(communities, clock, scope):
    scores = {"0": torch.rand(64)}
    options = {"communities": communities, "scope": scope}
    # 74 ms dense: half of it are 37 ms, and 27 neurons.
    assert num_kept(select(scores, Latency(0.5), **options)) == 27
    assert num_kept(select(scores, Latency(ms=20.5), **options)) == 10
    assert num_kept(select(scores, Latency(ms=1000), **options)) == 64


def test_what_is_measured(communities, clock):
    budget = Latency(0.5, batch_size=5, repeats=7)
    select({"0": torch.rand(64)}, budget, communities=communities)
    widths, shapes, repeats = zip(*clock, strict=True)
    assert widths[:2] == (64, 1)
    assert len(widths) <= 2 + 8
    assert set(shapes) == {(5, 4)}
    assert set(repeats) == {7}


def test_a_search_stops_after_eight_steps_at_something_measured(monkeypatch):
    model = nn.Sequential(nn.Linear(2, 2000), nn.ReLU(), nn.Linear(2000, 2))
    large = natsel.discover(model, torch.zeros(1, 2), proof=False)
    seen = []

    def time_in_turn(models, inputs, *, repeats):
        seen.append(models["small"][0].out_features)
        return {name: [float(m[0].out_features)] for name, m in models.items()}

    monkeypatch.setattr(room, "time_in_turn", time_in_turn)
    kept = num_kept(select({"0": torch.rand(2000)}, Latency(0.4), communities=large))
    assert len(seen) == 10
    assert kept in seen
    assert 800 - 1999 / 256 - 1 <= kept <= 800


def test_a_time_out_of_reach_names_the_nearest(communities, clock):
    scores = {"0": torch.rand(64)}
    with pytest.raises(ValueError, match=r"latency=0\.1 .*at least 0\.1486 of the dense .*batch 1"):
        select(scores, Latency(0.1), communities=communities)
    with pytest.raises(ValueError, match=r"ms=3 .*at least 11 ms at batch 8.*floor of 1"):
        select(scores, Latency(ms=3, batch_size=8), communities=communities)


def test_real_passes_are_measured_on_a_gated_model(communities):
    """The slowest allowed time is met by the dense model or by less: only that it runs."""
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
    evolution = natsel.Evolution(natsel.discover(model, torch.zeros(2, 4)))
    before = {name: p.clone() for name, p in model.named_parameters()}
    survivors = select(
        {"0": torch.rand(64)},
        Latency(ms=1e6, repeats=1),
        communities=evolution.communities,
    )
    assert num_kept(survivors) == 64
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either a share or ms="),
        ({"share": 0.5, "ms": 3.0}, "either a share or ms="),
        *(({"share": v}, "latency=") for v in (0.0, -0.5, 1.5, 1, math.nan, True, "0.5")),
        *(({"ms": v}, "ms=") for v in (0, -1.0, math.nan, math.inf, True, "3")),
        *(({"share": 0.5, "batch_size": v}, "batch_size=") for v in (0, -1, 1.0, True)),
        ({"share": 0.5, "repeats": 0}, "repeats=0"),
    ],
)
def test_times_outside_what_is_allowed_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Latency(**arguments)


def test_a_time_needs_a_model():
    with pytest.raises(ValueError, match=r"communities=None.*natsel\.Latency"):
        select({"a": torch.rand(4)}, Latency(0.5))
