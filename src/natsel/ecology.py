"""The constants of an evolution, and how one with a carrying capacity ended."""

from __future__ import annotations

import math
from dataclasses import dataclass

from natsel.common.errors import refuse


@dataclass(frozen=True)
class Ecology:
    """The constants of a run; all are per training step, and none knows how long the run is.

    Attributes:
        rate: time that passes in one training step.
        pressure: selection pressure at the start (constant unless there is a capacity).
        horizon: steps over which fitness is averaged (the time constant of the EMA).
        initial: mass of every population at the start, in (0, 1].
        level: a population whose mass stays under this level goes extinct.
        patience: for how many steps it has to stay there.
        floor: how many populations of each community survive at least.
        capacity: share of all populations that the environment carries, or None.
        adaptation: how much the pressure rises per step while more live than the environment carries.
        competition_every: steps between two measurements of who competes with whom.
    """

    rate: float
    pressure: float
    horizon: int = 30
    initial: float = 0.9
    level: float = 0.02
    patience: int = 20
    floor: int = 1
    capacity: float | None = None
    adaptation: float = 1e-3
    competition_every: int = 100

    def __post_init__(self) -> None:
        for name in ("rate", "pressure", "adaptation"):
            if not 0 <= _number(getattr(self, name)) < math.inf:
                refuse(name, getattr(self, name), "a finite number >= 0")
        for name in ("horizon", "patience", "competition_every", "floor"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                refuse(name, value, "a whole number >= 1")
        if not 0 < _number(self.initial) <= 1:
            refuse("initial", self.initial, "a mass in (0, 1]")
        if not 0 < _number(self.level) < self.initial:
            refuse("level", self.level, f"a mass in (0, initial={self.initial})")
        if self.capacity is not None and not 0 < _number(self.capacity) <= 1:
            refuse("capacity", self.capacity, "a share in (0, 1], or None")


def _number(value: object) -> float:
    """Return a number as it is and anything else as NaN, which is in no interval."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return math.nan


@dataclass(frozen=True)
class Landing:
    """How a run with a carrying capacity ended.

    Attributes:
        asked: share of populations that should be extinct.
        reached: share that is.
        landed: whether exactly as many live as the environment carries, or the two shares are
            within 1 %.
        message: the same in words.
    """

    asked: float
    reached: float
    landed: bool
    message: str
