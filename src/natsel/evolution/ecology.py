"""The constants of an evolution, and how one with a carrying capacity ended."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from natsel.common.errors import did_you_mean, refuse
from natsel.common.numbers import check_whole, is_number
from natsel.communities import Community
from natsel.selection.budget import nearest_count
from natsel.selection.counts import say_kept_whole

SCARCE = 0.1
"""An environment that carries a smaller share than this is scarce."""


@dataclass(frozen=True)
class Ecology:
    """The constants of a run; all are per training step, and none knows how long the run is.

    Attributes:
        rate: time that passes in one training step.
        pressure: selection pressure at the start (constant unless there is a capacity).
        adaptation: how much the pressure rises per step while more live than the environment
            carries; in a scarce one it grows with itself, too: see :meth:`next_pressure`.
        horizon: steps over which fitness is averaged (the time constant of the EMA).
        initial: mass of every population at the start, in (0, 1].
        level: a population whose mass stays under this level goes extinct.
        patience: for how many steps it has to stay there.
        floor: how many populations of each community survive at least; of experts never fewer than
            the router chooses.
        capacity: share of all populations that the environment carries, or None.
        competition_every: steps between two measurements of who competes with whom.
        every: the masses evolve at every so many steps, by as much time; cheaper, and the fitness
            is seen that much less often.
    """

    rate: float
    pressure: float
    adaptation: float
    horizon: int = 30
    initial: float = 0.9
    level: float = 0.02
    patience: int = 20
    floor: int = 1
    capacity: float | None = None
    competition_every: int = 100
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("rate", "pressure", "adaptation"):
            if not 0 <= _number(getattr(self, name)) < math.inf:
                refuse(name, getattr(self, name), "a finite number >= 0")
        for name in ("horizon", "patience", "competition_every", "every", "floor"):
            check_whole(name, getattr(self, name))
        if not 0 < _number(self.initial) <= 1:
            refuse("initial", self.initial, "a mass in (0, 1]")
        if not 0 < _number(self.level) < self.initial:
            refuse("level", self.level, f"a mass in (0, initial={self.initial})")
        if self.capacity is not None and not 0 < _number(self.capacity) <= 1:
            refuse("capacity", self.capacity, "a share in (0, 1], or None")

    def next_pressure(self, pressure: float, *, crowded: bool) -> float:
        r"""Return the pressure after one step of the law.

        While more live than the environment carries, it rises by

        $$\Delta p = \text{adaptation} \cdot (1 + s\, p), \qquad
          s = \max\big(0, \log_2 \tfrac{0.1}{K}\big)$$

        The few that are left of many are about equally fit, and do not crowd each other. At most
        laws they rest at a mass of about fitness / p, which a pressure that rises evenly takes
        tens of thousands of steps to bring under the level. Where the environment carries a tenth
        or more, s is 0. Once no more live than are carried, a scarce environment presses less at
        the same speed, down to where it began, so that those who are left recover.

        Args:
            pressure: as it is.
            crowded: whether more live than the environment carries.

        Example:
            >>> [Ecology(0.1, 1.0, 0.001, capacity=k).next_pressure(2.0, crowded=True)
            ...  for k in (0.5, 0.1, 0.05)]
            [2.001, 2.001, 2.003]
        """
        if self.capacity is None:
            return pressure
        scarcity = max(0.0, math.log2(SCARCE / self.capacity))
        change = self.adaptation * self.every * (1.0 + scarcity * pressure)
        if crowded:
            return pressure + change
        return max(min(pressure, self.pressure), pressure - change) if scarcity else pressure

    def constants(self) -> dict[str, float | None]:
        """Return the constants by name, as plain numbers that any format can hold.

        Example:
            >>> Ecology(rate=0.1, pressure=1.0, adaptation=1e-3).constants()["horizon"]
            30
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {n: float(v) if isinstance(v, float) else v for n, v in values.items()}

    def check_same(self, constants: Mapping[str, float | None]) -> None:
        """Refuse constants that are not these.

        Args:
            constants: as :meth:`constants` returned them.

        Raises:
            ValueError: naming the first constant that differs, with both values.
        """
        for name, value in self.constants().items():
            if constants.get(name, math.nan) != value:
                expected = f"{value!r}, as in this evolution"
                refuse(f"state['constants'][{name!r}]", constants.get(name, "missing"), expected)

    def floor_of(self, community: Community) -> int:
        """Return how many populations of a community survive at least.

        As many as a router chooses stay, however low the floor.
        """
        return min(max(self.floor, community.minimum), community.size)

    def check_floor(self, sizes: Mapping[str, int]) -> None:
        """Refuse a floor under which nobody could go extinct; say what stays whole under it.

        Args:
            sizes: how many populations each community has, by name.

        Raises:
            ValueError: if the floor is as high as the largest community.
        """
        largest = max(sizes.values())
        if self.floor >= largest and self.floor > 1:
            allowed = f"less than {largest}, the size of the largest community"
            refuse("floor", self.floor, f"{allowed}: else nobody can go extinct")
        say_kept_whole(self.floor, sizes, stacklevel=3)

    def carried(
        self, sizes: Collection[int], *, floors: Collection[int] | None = None
    ) -> int | None:
        """Return how many populations the environment carries; None without a capacity.

        Args:
            sizes: how many populations each community has.
            floors: how many of each survive at least; the floor by default.

        Raises:
            ValueError: if the floors keep more alive than that.

        Example:
            >>> Ecology(rate=0.1, pressure=1.0, adaptation=1e-3, capacity=0.25).carried([8, 5])
            3
        """
        if self.capacity is None:
            return None
        carried = nearest_count(self.capacity, sum(sizes))
        least = sum(min(self.floor, size) for size in sizes) if floors is None else sum(floors)
        if carried < least:
            refuse(
                "capacity",
                self.capacity,
                f"at least {least / sum(sizes):.4f}: a floor of {self.floor} keeps {least} "
                "populations alive",
            )
        return carried


def check_constants(given: Mapping[str, object]) -> None:
    """Refuse what is no constant of an evolution.

    Args:
        given: by name.

    Raises:
        ValueError: with the nearest name.

    Example:
        >>> check_constants({"floor": 2, "presure": 1.5})
        Traceback (most recent call last):
        ValueError: presure=1.5 is not allowed: expected a constant among adaptation, capacity, competition_every, every, floor, horizon, initial, level, patience, pressure, rate (did you mean 'pressure'?)
    """  # noqa: E501
    known = sorted(Ecology.__dataclass_fields__)
    for name, value in given.items():
        if name not in known:
            hint = did_you_mean(name, known)
            refuse(name, value, f"a constant among {', '.join(known)}{hint}")


def _number(value: object) -> float:
    """Return a number as it is and anything else as NaN, which is in no interval."""
    return float(value) if is_number(value) else math.nan


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

    def __repr__(self) -> str:
        verdict = "landed" if self.landed else "NOT landed"
        return f"Landing({verdict}: {self.message})"

    @classmethod
    def of(
        cls,
        capacity: float,
        *,
        num_carried: int,
        num_alive: int,
        num_populations: int,
        pressure: float,
    ) -> Landing:
        """Compare how many live with how many the environment carries.

        Args:
            capacity: the share that it carries.
            num_carried: the same as a count.
            num_alive: how many live.
            num_populations: how many there were.
            pressure: the selection pressure at the end.

        Example:
            >>> Landing.of(
            ...     0.5, num_carried=5, num_alive=5, num_populations=10, pressure=1.0
            ... ).message
            '50.0% of the populations went extinct; the environment carries 50.0%'
        """
        asked, reached = 1.0 - capacity, 1.0 - num_alive / num_populations
        landed = num_alive == num_carried or abs(asked - reached) <= 0.01
        words = (
            f"{reached:.1%} of the populations went extinct; the environment carries {capacity:.1%}"
        )
        if not landed:
            words += (
                f", which leaves {num_alive - num_carried} too many. Train longer, or "
                f"raise rate or adaptation (pressure is {pressure:.2f})"
            )
        return cls(asked, reached, landed, words)
