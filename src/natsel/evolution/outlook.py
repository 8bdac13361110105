"""When the next population goes extinct: the law, played on from what has been seen."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from natsel.dynamics import Dynamic
from natsel.evolution.ecology import SCARCE, Ecology
from natsel.evolution.populations import Populations

LIMIT = 10_000
"""Steps that are played at most: what was seen tells little about what comes after."""

AT_REST = 1e-7
"""Masses that move less in a step are at rest."""


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

    def __repr__(self) -> str:
        return f"Outlook({self.message})"


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

    def steps_to_landing(self, carried: int, limit: int) -> int | None:
        """Return after how many training steps no more live than that, None if after ``limit``."""
        populations = self._populations
        for step in range(0, limit, self._ecology.every):
            self._step()
            lowest = populations.lowest(populations.influence[:-1])
            populations.extinguish(lowest=lowest, carried=carried)
            if populations.num_alive <= carried:
                return step + self._ecology.every
        return None

    @property
    def _exposed(self) -> torch.Tensor:
        parts = [(g.living > g.floors) & g.alive.bool() for g in self._populations.groups]
        return torch.cat([part.reshape(-1) for part in parts])

    def _step(self) -> float:
        populations, law = self._populations, (self._dynamic, self._pressure, self._generator)
        masses = [
            populations.stepped(group, *law, full=False).reshape(-1) for group in populations.groups
        ]
        mass = populations.confined(torch.cat(masses))
        moved = float((mass - populations.mass).abs().max())
        populations.take(mass, populations.influence_of(mass, self._pressure))
        if self._rising:
            self._pressure = self._ecology.next_pressure(self._pressure, crowded=True)
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


def foretell(
    dynamic: Dynamic,
    ecology: Ecology,
    sizes: Mapping[str, int],
    *,
    floors: Sequence[int],
    carried: int,
    num_steps: int,
) -> str | None:
    r"""Say before anything is known that a run will hardly land at its capacity.

    The law is played on populations whose fitness never changes and is spread exponentially in
    each community: the i-th of n has \(-\log(1 - (i - 1/2) / n)\). However many have died, the
    rest lie as close to each other as at first, which is what networks come to when few are left.
    Where the environment carries a tenth or more, networks are quicker than that: all that is
    looked at then is whether anybody goes extinct.

    Args:
        dynamic: the law.
        ecology: the constants, with a capacity.
        sizes: how many populations each community has.
        floors: how many of each survive at least.
        carried: how many the environment carries.
        num_steps: how many steps the run has.

    Returns:
        One sentence that says what would do; None where nothing speaks against landing.
    """
    total = sum(sizes.values())
    if carried >= total:
        return None
    future = _unknown(dynamic, ecology, sizes, floors)
    scarce = ecology.capacity is not None and ecology.capacity < SCARCE
    steps = (
        future.steps_to_landing(carried, num_steps) if scarce else future.steps_to_next(num_steps)
    )
    if steps is not None:
        return None
    what = f"{dynamic.name!r} will hardly bring {total} populations down to {carried}"
    far = "" if scarce else ", nor let the first one go extinct,"
    if ecology.adaptation == 0:
        return f"{what}{far} in {num_steps} steps: with adaptation=0 the pressure never rises"
    return f"{what}{far} in {num_steps} steps: train longer, or raise rate and adaptation"


def _unknown(
    dynamic: Dynamic, ecology: Ecology, sizes: Mapping[str, int], floors: Sequence[int]
) -> Future:
    cpu = torch.device("cpu")
    populations = Populations(
        sizes, ecology, space=dynamic.space, signed=False, device=cpu, floors=floors
    )
    for group in populations.groups:
        share = (torch.arange(group.average.shape[1]) + 0.5) / group.average.shape[1]
        group.average.copy_(-torch.log1p(-share))
    return Future(
        populations,
        dynamic,
        ecology,
        pressure=ecology.pressure,
        rising=True,
        generator=torch.Generator().manual_seed(0),
    )
