"""Costs counted by hand; latency by its structure, never by a time."""

import torch
from torch import nn

from natsel.models import build
from natsel.runs.measure import describe, latency, macs, num_correct, num_parameters, outcomes


def test_costs_of_a_multilayer_perceptron():
    model = build("mlp", in_shape=(1, 8, 8), num_classes=10, hidden=[16, 8])
    products = 64 * 16 + 16 * 8 + 8 * 10
    assert macs(model, torch.zeros(3, 1, 8, 8)) == products
    assert num_parameters(model) == products + 16 + 8 + 10


def test_costs_of_a_convolution():
    model = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    assert macs(model, torch.zeros(2, 3, 5, 5)) == 4 * 3 * 3 * 3 * 5 * 5
    assert num_parameters(model) == 4 * 3 * 3 * 3


def test_shared_parameters_count_once():
    first = nn.Linear(4, 4)
    second = nn.Linear(4, 4)
    second.weight = first.weight
    assert num_parameters(nn.Sequential(first, second)) == 16 + 4 + 4


def test_counting_leaves_the_mode_alone():
    model = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))
    model[1].eval()
    macs(model, torch.zeros(1, 4))
    outcomes(model, torch.zeros(1, 4), torch.zeros(1).long())
    latency({"a": model}, torch.zeros(1, 4), repeats=1)
    assert [m.training for m in model.modules()] == [True, True, False]


def test_accuracy_counts_over_more_than_one_batch():
    inputs = torch.eye(3).repeat(700, 1)
    labels = torch.arange(3).repeat(700)
    labels[:5] = 2 - labels[:5]  # 0 and 2 change places
    assert num_correct(nn.Identity(), inputs, labels) == 2100 - 3
    row = describe(nn.Sequential(nn.Linear(3, 3, bias=False)), inputs, labels)
    assert set(row) == {"accuracy", "low", "high", "n", "parameters", "macs"}
    assert (row["n"], row["parameters"], row["macs"]) == (2100, 9, 9)


class Recorder(nn.Module):
    def __init__(self, name, log):
        super().__init__()
        self.name, self.log = name, log

    def forward(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.log.append((self.name, len(x)))
        return x


def test_latency_takes_the_models_in_turn():
    log = []
    models = {name: Recorder(name, log) for name in "abc"}
    times = latency(models, torch.zeros(5, 2), batch_sizes=(1, 8), repeats=4)
    for size in (1, 8):
        calls = [name for name, n in log if n == size]
        assert "".join(calls[-12:]) == "abc" * 4
        assert len(calls) == 3 * 3 + 12
    assert list(times) == ["a", "b", "c"]
    for sizes in times.values():
        assert list(sizes) == ["1", "8"]
        for row in sizes.values():
            assert list(row) == ["median_ms", "low_ms", "high_ms"]
            assert 0 <= row["low_ms"] <= row["median_ms"] <= row["high_ms"]
