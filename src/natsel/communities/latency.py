"""What a forward pass takes: the price that can only be measured."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import nn

from natsel.common.calls import Inputs, call, shapes_of, tensors_of_inputs, with_tensors
from natsel.common.errors import refuse
from natsel.communities.discover import evaluating

WARM_UP = 3


class Median(NamedTuple):
    """A median with its 95 % interval by order statistics.

    Attributes:
        median: of the values.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    median: float
    low: float
    high: float


def median(values: Sequence[float]) -> Median:
    """Return the median of some values and its 95 % interval.

    Its ends are the k-th smallest and the k-th largest value, where k is the smallest number with
    P(Binomial(n, 1/2) <= k) >= 2.5 %; of few values they are the extremes.

    Args:
        values: at least one.

    Returns:
        The median and its interval.

    Example:
        >>> median([3.0, 1.0, 2.0])
        Median(median=2.0, low=1.0, high=3.0)
    """
    ordered = sorted(values)
    n = len(ordered)
    below, rank = 1, 0
    while below * 40 < 2**n:
        rank += 1
        below += math.comb(n, rank)
    low = max(rank - 1, 0)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return Median(middle, ordered[low], ordered[n - 1 - low])


def batch_of(inputs: Inputs, size: int) -> Inputs:
    """Return inputs repeated, or shortened, to a batch size.

    Args:
        inputs: that agree on their first axis.
        size: of the batch.

    Returns:
        The same samples over and over.

    Raises:
        ValueError: if the inputs have no batch axis that they agree on.
    """
    tensors = tensors_of_inputs(inputs)
    if any(x.dim() == 0 or x.shape[0] != tensors[0].shape[0] for x in tensors):
        refuse("example_inputs", shapes_of(inputs), "inputs that agree on a first, batch axis")
    rows = torch.arange(size) % tensors[0].shape[0]
    return with_tensors(inputs, [x[rows.to(x.device)].contiguous() for x in tensors])


def time_in_turn(
    models: Mapping[str, nn.Module], inputs: Inputs, *, repeats: int
) -> dict[str, list[float]]:
    """Time forward passes of several models in turn, so that drift hits all of them alike.

    Args:
        models: by name; each runs in evaluation mode without gradients, and keeps its mode.
        inputs: what they run on.
        repeats: how often each is run, after a few passes that warm up.

    Returns:
        Milliseconds of every pass, by name; equal places were measured one after the other.
    """
    found: dict[str, list[float]] = {name: [] for name in models}
    devices = {x.device for x in tensors_of_inputs(inputs) if x.is_cuda}
    with ExitStack() as modes, torch.inference_mode():
        for model in models.values():
            modes.enter_context(evaluating(model))
            for _ in range(WARM_UP):
                call(model, inputs)
        for _ in range(repeats):
            for name, model in models.items():
                _wait_for(devices)
                start = time.perf_counter()
                call(model, inputs)
                _wait_for(devices)
                found[name].append((time.perf_counter() - start) * 1e3)
    return found


def _wait_for(devices: set[torch.device]) -> None:
    for device in devices:
        torch.cuda.synchronize(device)
