"""What a selection will bring, said before and after it is carried out."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

import natsel
from natsel.common.timing import Median
from natsel.communities import Cost
from natsel.extraction import plan_of
from natsel.extraction.prediction import Line, Prediction, Timing


@pytest.fixture(scope="module")
def case():
    model = nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 3)
    )
    communities = natsel.discover(model, torch.zeros(2, 4))
    masks = {"0": torch.arange(16) < 8, "2": torch.arange(10) < 5}
    return model, natsel.Survivors(masks, communities)


TABLE = """\
community  kind    kept  of  parameters saved  MACs saved
0          neuron     8  16               120         112
2          neuron     5  10               100          95
parameters: 283 -> 103 (36.4%)
MACs per sample: 254 -> 87 (34.3%)
latency: not measured (natsel.preview(..., measure=True) measures it)"""


def test_the_summary_before_by_hand(case):
    # Dense: 4 x 16 + 16 x 10 + 10 x 3 = 254 and 29 biases; small: 4 x 8 + 8 x 5 + 5 x 3 and 16.
    assert natsel.preview(*case).summary() == TABLE


def test_the_summary_after_is_the_same(case):
    assert plan_of(natsel.extract(*case)).summary() == TABLE


def test_the_prediction_is_what_the_small_model_has(case):
    model, survivors = case
    prediction = natsel.preview(model, survivors)
    small = natsel.extract(model, survivors)
    assert prediction.small.parameters == sum(p.numel() for p in small.parameters())
    assert prediction.small.macs == natsel.discover(small, torch.zeros(1, 4)).macs


def test_nothing_is_changed_by_measuring(case):
    model, survivors = case
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = natsel.preview(model, survivors, measure=True, batch_sizes=(1, 3), repeats=2)
    assert [t.batch_size for t in found.timings] == [1, 3]
    assert "latency at batch 3: " in found.summary()
    assert "not measured" not in found.summary()
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in before.items()
    }
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_gated_model_is_predicted_and_stays_gated():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    evolution = natsel.Evolution(natsel.discover(model, torch.zeros(2, 4)))
    masks = {"0": torch.arange(8) < 2}
    found = natsel.preview(model, masks, communities=evolution.communities, measure=True, repeats=1)
    assert found.small == Cost(4 * 2 + 2 + 2 * 3 + 3, 4 * 2 + 2 * 3)
    assert natsel.communities.gates.gates.is_gated(model)


def timing(batch_size, median, low, high):
    return Timing(batch_size, Median(2, 1, 3), Median(2 * median, 1, 3), Median(median, low, high))


EVEN = Line("a", "neuron", 8, 16, Cost(1, 1.0))


def verdicts(*timings, lines=(EVEN,), left=50.0):
    prediction = Prediction(tuple(lines), Cost(100, 100.0), Cost(50, left), tuple(timings))
    return [line for line in prediction.summary().splitlines() if "this device" in line]


NOT = "not faster on this device at batch 1; likely because: "


def test_what_is_faster_is_not_called_slow():
    assert verdicts(timing(1, 0.6, 0.5, 0.7), timing(64, 0.94, 0.93, 0.99)) == []


@pytest.mark.parametrize(("median", "low", "high"), [(0.95, 0.94, 0.96), (1.2, 1.1, 1.3)])
def test_what_is_not_faster_is_called_so(median, low, high):
    assert verdicts(timing(1, median, low, high)) == [
        NOT + "its time is not spent on multiply-accumulates"
    ]


def test_noise_is_told_from_slowness():
    (line,) = verdicts(timing(1, 0.8, 0.5, 1.1))
    assert line.startswith("not measurably faster on this device at batch 1")
    assert "the measurement varies too much" in line


def test_reasons_that_are_likely():
    slow, fast = timing(1, 1.0, 0.9, 1.1), timing(64, 0.5, 0.4, 0.6)
    assert verdicts(slow, left=91.0) == [NOT + "little was removed (91% of the MACs are left)"]
    assert verdicts(slow, fast) == [NOT + "the batch is too small (it is faster at batch 64)"]
    odd = [Line(n, "neuron", 7, 16, Cost(1, 1.0)) for n in "abcd"]
    assert verdicts(slow, lines=odd) == [
        NOT + "widths that are no multiple of 8 (a keeps 7, b keeps 7, c keeps 7 and 1 more)"
    ]
    whole = Line("a", "neuron", 7, 7, Cost(0, 0.0))
    heads = Line("b", "head", 3, 4, Cost(1, 1.0))
    assert "multiple" not in verdicts(slow, lines=[whole, heads])[0]


def test_a_prediction_survives_json(case):
    found = natsel.preview(*case)
    assert Prediction.from_dict(json.loads(json.dumps(dataclasses.asdict(found)))) == found
    for damaged in ({}, {"lines": [{}], "dense": {}, "small": {}}, {"lines": 3}):
        with pytest.raises(ValueError, match="no prediction"):
            Prediction.from_dict(damaged)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "repeats=0"),
        ({"batch_sizes": (1, 0)}, "batch_sizes=0"),
        ({"batch_sizes": (1.5,)}, r"batch_sizes=1\.5"),
    ],
)
def test_what_cannot_be_measured_is_refused(case, options, message):
    with pytest.raises(ValueError, match=message):
        natsel.preview(*case, measure=True, **options)


def test_survivors_of_another_model_are_refused(case):
    with pytest.raises(ValueError, match="model="):
        natsel.preview(nn.Sequential(nn.Linear(4, 15), nn.ReLU(), nn.Linear(15, 10)), case[1])
