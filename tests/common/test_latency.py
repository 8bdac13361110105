"""Measuring forward passes: its structure and its arithmetic, never a time."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from natsel.common.timing import batch_of, median, time_in_turn


class Recorder(nn.Module):
    def __init__(self, name, log):
        super().__init__()
        self.name, self.log = name, log

    def forward(self, x, y):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.log.append(self.name)
        return x + y


def test_models_are_timed_in_turn_on_named_inputs():
    log = []
    models = {name: Recorder(name, log).train() for name in "ab"}
    times = time_in_turn(models, {"y": torch.ones(2), "x": torch.ones(2)}, repeats=4)
    assert "".join(log) == "aaabbb" + "ab" * 4
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4}
    assert all(value > 0 for values in times.values() for value in values)
    assert all(model.training for model in models.values())


def test_a_batch_repeats_its_samples():
    x, y = torch.arange(3.0), torch.arange(6.0).reshape(3, 2)
    first, second = batch_of((x, y), 5)
    assert first.tolist() == [0, 1, 2, 0, 1]
    assert second[:, 1].tolist() == [1, 3, 5, 1, 3]
    assert batch_of({"x": y}, 1)["x"].tolist() == [[0, 1]]


@pytest.mark.parametrize("other", [torch.ones(2), torch.tensor(1.0)])
def test_inputs_without_a_common_batch_axis_are_refused(other):
    with pytest.raises(ValueError, match=r"example_inputs='\(3,\), .*batch axis"):
        batch_of((torch.ones(3), other), 4)


def test_the_interval_of_a_median_by_hand():
    # Of 6 values the extremes: one sixty-fourth on each side; of 9 the second on each side.
    assert median([3, 1, 2, 6, 5, 4]) == (3.5, 1, 6)
    assert median(range(9)) == (4, 1, 7)
    assert median([7.0]) == (7, 7, 7)


@given(st.integers(6, 200))
def test_the_interval_holds_the_median_with_95_percent(n):
    """As many ranks as leave at most 2.5 % of the binomial distribution on each side."""
    found = median(range(n))
    assert found.low + found.high == n - 1
    below = itertools.accumulate((math.comb(n, i) for i in range(n - 1)), initial=0)
    outside = [ways / 2**n for ways in below]
    rank = int(found.low) + 1
    assert outside[rank] <= 0.025 < outside[rank + 1]
