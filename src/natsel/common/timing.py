"""Times: of forward passes in turn, of steps that take turns in one process, and their ratios."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from natsel.common.calls import Inputs, call, shapes_of, tensors_of_inputs, with_tensors
from natsel.common.errors import refuse
from natsel.common.mapped import staying
from natsel.common.modes import evaluating

WARM_UP = 3
"""Passes of each model before any is timed."""

LEAST = 1e-9
"""Seconds that anything takes at least: the clock may not have moved."""


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
    with ExitStack() as modes, torch.inference_mode(), staying():
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread, and with as many as before afterwards."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def take_turns(
    steps: Sequence[Callable[[], object]],
    *,
    repeats: int,
    block: int = 1,
    warm_up: int = 0,
    prepare: Mapping[int, Callable[[], object]] | None = None,
) -> np.ndarray:
    """Take the processor time of steps, block by block in turn, there and back.

    Time of this process, so that what else the machine does matters less.

    Args:
        steps: what is timed.
        repeats: blocks of each.
        block: calls in a block.
        warm_up: calls of each before anything is timed.
        prepare: by the number of a step what is done, untimed, before each of its blocks.

    Returns:
        Seconds a call, ``[repeats, steps]``.
    """
    for step in steps:
        for _ in range(warm_up):
            step()
    times = np.empty((repeats, len(steps)))
    for row in range(repeats):
        columns = range(len(steps))
        for column in columns if row % 2 == 0 else reversed(columns):
            if prepare is not None and column in prepare:
                prepare[column]()
            start = time.process_time()
            for _ in range(block):
                step_result = steps[column]()
            times[row, column] = max(time.process_time() - start, LEAST) / block
            del step_result  # freeing it is not part of the next one's time
    return times


def quartiles(ratios: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return the median of ratios with its quartiles.

    Example:
        >>> quartiles([4.0, 1.0, 2.0, 3.0, 5.0])
        {'ratio': 3.0, 'quartile_low': 2.0, 'quartile_high': 4.0}
    """
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return {"ratio": float(middle), "quartile_low": float(low), "quartile_high": float(high)}
