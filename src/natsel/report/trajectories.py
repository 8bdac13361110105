"""Masses over time: who died when, who is drawn, how many still live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DEFAULT_LEVEL = 0.01
MAX_LINES = 150
MAX_POINTS = 160
MIN_LINES = 12
MIN_POINTS = 20
MAX_NUMBERS = 120_000
"""Masses that one page holds: some 0.8 MB."""
NUM_DEATH_COLOURS = 8


@dataclass(frozen=True)
class Trajectories:
    """The recorded masses of one community.

    Attributes:
        name: of the community.
        steps: [T] training steps at which masses were recorded.
        masses: [T, n].
        alive: [n] who lived at the end.
        deaths: [n] index into ``steps`` of each death, T for survivors.
    """

    name: str
    steps: Ints
    masses: Floats
    alive: Bools
    deaths: Ints

    @property
    def num_extinct(self) -> int:
        """How many went extinct."""
        return int((~self.alive).sum())

    def living(self) -> Ints:
        """Count the living at every recorded step, [T]."""
        died = np.bincount(self.deaths, minlength=len(self.steps) + 1)[: len(self.steps)]
        return np.asarray(len(self.alive) - np.cumsum(died), dtype=np.int64)


def read_trajectories(tensors: Mapping[str, Any], level: float) -> list[Trajectories]:
    """Read the trajectories of every community, in the order of the file.

    A community whose tensors do not fit together is left out: a report never fails for it.

    Args:
        tensors: arrays named ``steps``, ``mass/<community>`` and ``alive/<community>``.
        level: the extinction level, for files that do not say who is alive.

    Returns:
        One entry per community.
    """
    steps = np.asarray(tensors.get("steps", []), dtype=np.int64)
    found = []
    for key, tensor in tensors.items():
        masses = np.asarray(tensor, dtype=np.float64)
        if not key.startswith("mass/") or masses.ndim != 2 or masses.size == 0:
            continue
        name = key.removeprefix("mass/")
        alive = np.asarray(tensors.get(f"alive/{name}", masses[-1] >= level), dtype=np.bool_)
        if masses.shape != (len(steps), alive.size):
            continue
        deaths = times_of_death(masses, alive, level)
        found.append(Trajectories(name, steps, masses, alive, deaths))
    return found


def times_of_death(masses: Floats, alive: Bools, level: float) -> Ints:
    """Find from when on each extinct population's mass stayed under the extinction level.

    Args:
        masses: [T, n].
        alive: [n]; the living have no time of death, whatever their mass.
        level: the extinction level.

    Returns:
        [n] index of the first record of the last stretch under the level; T for the living. A
        population that is extinct yet never recorded under the level died at the last record.

    Example:
        >>> masses = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.6, 0.0]])
        >>> times_of_death(masses, np.array([False, True, False]), 0.01).tolist()
        [1, 3, 2]
    """
    num_steps = len(masses)
    over = ~(masses < level)
    last_over = np.where(over.any(axis=0), num_steps - 1 - over[::-1].argmax(axis=0), -1)
    deaths = np.minimum(last_over + 1, num_steps - 1)
    return np.where(alive, num_steps, deaths).astype(np.int64)


def sample_lines(trajectories: Trajectories, limit: int = MAX_LINES) -> Ints:
    """Choose which populations are drawn: evenly over the rank of final mass, all fates present.

    Equal final masses rank by time of death, so the extinct are spread over time too. A fate that
    an even choice misses (survivors, or one span of the times of death) gets one line.

    Args:
        trajectories: of one community.
        limit: the largest number of lines.

    Returns:
        Indices of populations, at most ``limit`` (which exceeds the number of fates).
    """
    order = np.lexsort((trajectories.deaths, trajectories.masses[-1]))
    if len(order) <= limit:
        return order.astype(np.int64)
    fates = death_colours(trajectories)
    for num_even in range(limit, 0, -1):
        chosen = order[np.linspace(0, len(order) - 1, num_even).round().astype(np.int64)]
        missed = np.setdiff1d(fates, fates[chosen])
        if num_even + len(missed) <= limit:
            break
    extra = [order[fates[order] == fate][(fates == fate).sum() // 2] for fate in missed]
    return np.concatenate([chosen, np.asarray(extra, dtype=np.int64)]).astype(np.int64)


def death_colours(trajectories: Trajectories) -> Ints:
    """Give each population the span of training in which it died: 0 earliest, -1 if it lives."""
    last = max(len(trajectories.steps) - 1, 1)
    spans = np.minimum(trajectories.deaths * NUM_DEATH_COLOURS // last, NUM_DEATH_COLOURS - 1)
    return np.where(trajectories.alive, -1, spans).astype(np.int64)


def shares(num_communities: int) -> tuple[int, int]:
    """Return how many lines, and points of each, a picture has where so many share a page.

    Example:
        >>> shares(2), shares(20), shares(200)
        ((150, 160), (37, 160), (12, 50))
    """
    lines = min(MAX_LINES, max(MIN_LINES, MAX_NUMBERS // (num_communities * MAX_POINTS)))
    return lines, min(MAX_POINTS, max(MIN_POINTS, MAX_NUMBERS // (num_communities * lines)))


def sample_steps(num_steps: int, limit: int = MAX_POINTS) -> Ints:
    """Choose which records are drawn: evenly, the first and the last among them."""
    return np.unique(np.linspace(0, num_steps - 1, min(limit, num_steps)).round()).astype(np.int64)
