"""Times of things that take turns in one process, and what they say as ratios."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

LEAST = 1e-9
"""Seconds that anything takes at least: the clock may not have moved."""


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
