"""When the next population goes extinct: the law, played on from what has been seen."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from natsel.dynamics import Dynamic
from natsel.evolution.ecology import Ecology
from natsel.evolution.populations import Populations

LIMIT = 10_000
"""Steps that are played at most: what was seen tells little about what comes after."""

AT_REST = 1e-7
"""Masses that move less in a step are at rest."""

WEAK = 0.5
"""Fitness of a weak population, as a share of its community's mean: the weakest of the last few
that are left seldom has more."""


@dataclass(frozen=True)
class Outlook:
    """Who is extinct, and when the next is.

    Attributes:
        num_extinct: how many went extinct so far.
        lowest: the least mass of the living.
        steps: more training steps until the next goes extinct, if everybody stays as fit as now;
            None where that does not happen within the steps looked at.
        message: the same in words, with the reason and what would do.
    """

    num_extinct: int
    lowest: float
    steps: int | None
    message: str


class Future:
    """A copy of populations that evolves while their fitness stays as it is.

    Args:
        populations: not changed.
        dynamic: the law.
        ecology: the constants.
        pressure: as it is.
        rising: whether the pressure rises.
        generator: what chance has done so far; not changed.
    """

    def __init__(
        self,
        populations: Populations,
        dynamic: Dynamic,
        ecology: Ecology,
        *,
        pressure: float,
        rising: bool,
        generator: torch.Generator,
    ) -> None:
        self._populations = copy.deepcopy(populations)
        self._dynamic = dynamic
        self._ecology = ecology
        self._pressure = pressure
        self._rising = rising and ecology.adaptation > 0
        self._generator = torch.Generator(generator.device)
        self._generator.set_state(generator.get_state())

    def steps_to_next(self, limit: int) -> int | None:
        """Return after how many training steps the next goes extinct, None if after ``limit``."""
        below = self._populations.below.clone()
        patience = self._ecology.patience / self._ecology.every
        for step in range(0, limit, self._ecology.every):
            moved = self._step()
            under = self._populations.influence[:-1] < self._ecology.level
            # A community at its floor loses nobody.
            under &= self._exposed
            below.add_(1).mul_(under)
            if float(below.max()) >= patience:
                return step + self._ecology.every
            if moved < AT_REST and not self._rising and not bool(under.any()):
                return None
        return None

    @property
    def _exposed(self) -> torch.Tensor:
        parts = [(g.living > g.floors) & g.alive.bool() for g in self._populations.groups]
        return torch.cat([part.reshape(-1) for part in parts])

    def _step(self) -> float:
        populations, masses = self._populations, []
        for group in populations.groups:
            masses.append(
                self._dynamic.step(
                    group.mass,
                    populations.payoff(group),
                    self._ecology.rate * self._ecology.every,
                    pressure=populations.intensity(group, self._pressure, full=False),
                    competition=group.competition,
                    generator=self._generator,
                ).reshape(-1)
            )
        mass = populations.confined(torch.cat(masses))
        moved = float((mass - populations.mass).abs().max())
        populations.take(mass, populations.influence_of(mass, self._pressure))
        if self._rising:
            self._pressure += self._ecology.rise(self._pressure)
        populations.press(self._pressure)
        return moved


def describe(
    future: Future | None,
    *,
    ecology: Ecology,
    num_alive: int,
    num_populations: int,
    lowest: float,
    pressure: float,
    num_steps: int,
    limit: int = LIMIT,
) -> Outlook:
    """Say who is extinct, and when the next is.

    Args:
        future: what to play on; None where nobody dies any more.
        ecology: the constants.
        num_alive: how many live.
        num_populations: how many there were.
        lowest: the least mass of the living.
        pressure: as it is.
        num_steps: how many steps were made.
        limit: how many steps to look ahead.
    """
    extinct = num_populations - num_alive
    words = f"{extinct} of {num_populations} populations are extinct after {num_steps} steps"
    steps = None
    if future is None:
        return Outlook(extinct, lowest, None, f"{words}; the environment carries the rest")
    if not num_steps:
        return Outlook(extinct, lowest, None, f"{words}; nothing was seen of their fitness yet")
    steps = future.steps_to_next(limit)
    words += f": the lowest mass is {lowest:.3f}, the extinction level {ecology.level}"
    if steps is not None:
        words += (
            f"; the next goes extinct in about {steps} more steps, if everybody stays as fit as now"
        )
    elif ecology.capacity is not None and ecology.adaptation > 0:
        words += f"; nobody goes under it in the next {limit} steps: raise rate or adaptation"
    else:
        words += (
            f"; at this pressure ({pressure:.2f}) nobody goes under it in the next {limit} steps: "
            "raise pressure or rate, or set a capacity"
        )
    return Outlook(extinct, lowest, steps, words)


def weak_die_after(
    dynamic: Dynamic, ecology: Ecology, sizes: Sequence[int], limit: int
) -> int | None:
    """Return after how many steps the weak go under the level, among as many as are carried.

    The law is played on a community of the largest size of which the environment's share and one
    more live, half of them half as fit as the mean and half more than that: the hardest time, at
    the end, where few are left that do not crowd each other. They start at the full mass at the
    first step, which is early: while there are many more, deaths are quicker.

    Args:
        dynamic: the law.
        ecology: the constants, with a capacity.
        sizes: how many populations each community has.
        limit: how many steps to look ahead.

    Returns:
        The steps, None if it takes more than ``limit``.
    """
    assert ecology.capacity is not None
    size = max(sizes)
    living = min(size, max(2, math.ceil(ecology.capacity * size) + 1))
    populations = Populations(
        {"": size},
        ecology,
        space=dynamic.space,
        signed=False,
        device=torch.device("cpu"),
        floors=[min(ecology.floor, living - 1)],
    )
    populations.alive[living:] = 0.0
    populations.mass[living:] = 0.0
    populations.average[:living:2], populations.average[1:living:2] = WEAK, 2.0 - WEAK
    populations.load_state_dict(populations.state_dict(), ecology.pressure)
    future = Future(
        populations,
        dynamic,
        ecology,
        pressure=ecology.pressure,
        rising=True,
        generator=torch.Generator().manual_seed(0),
    )
    return future.steps_to_next(limit)
