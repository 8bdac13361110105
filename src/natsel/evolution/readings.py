"""What users read of an evolution."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.communities import Communities
from natsel.dynamics import Dynamic
from natsel.evolution.ecology import Ecology, Landing
from natsel.evolution.outlook import Future, Outlook, describe, foretell
from natsel.evolution.populations import Populations
from natsel.evolution.skips import Skips
from natsel.evolution.trajectory import Trajectory
from natsel.fitness import Fitness
from natsel.selection import Sparsity, Survivors, select


class Readings:
    """Masses, fitness, who is alive, and how far the run is.

    Attributes:
        communities: whose populations evolve.
        dynamic: the law.
        fitness: the signal.
        ecology: the constants.
        trajectory: masses over time.
    """

    communities: Communities
    dynamic: Dynamic
    fitness: Fitness
    ecology: Ecology
    trajectory: Trajectory
    _populations: Populations
    _skips: Skips
    _carried: int | None
    _generator: torch.Generator
    _pressure: float
    _steps: int

    @property
    def num_steps(self) -> int:
        """Steps so far."""
        return self._steps

    @property
    def num_skipped(self) -> int:
        """Steps that evolved nothing, because gradients had overflowed."""
        return self._skips.total

    @property
    def pressure(self) -> float:
        """The selection pressure now."""
        return self._pressure

    @property
    def num_alive(self) -> int:
        """How many populations are not extinct."""
        return self._populations.num_alive

    @property
    def extinct_share(self) -> float:
        """Share of all populations that are extinct."""
        return 1.0 - self.num_alive / self.communities.num_populations

    @property
    def masses(self) -> dict[str, Tensor]:
        """The mass of every population, in [0, 1]: what scales its influence now."""
        return self._populations.by_name(self._populations.influence)

    @property
    def fitness_values(self) -> dict[str, Tensor]:
        """The averaged fitness of every population, 1 for the mean of its community's living."""
        return self._populations.by_name(self._populations.all_relative())

    @property
    def alive(self) -> dict[str, Tensor]:
        """Which populations are not extinct."""
        return self._populations.by_name(self._populations.alive.bool())

    def survivors(self, budget: Sparsity | None = None) -> Survivors:
        """Return who survives: all that did not go extinct, or exactly as many as a budget asks.

        Args:
            budget: how many to remove; the lowest masses go first, ties by fitness then index,
                over all communities together (masses are relative to their community already).

        Returns:
            The survivors, never fewer than the floor in a community.
        """
        if budget is None:
            return Survivors(self.alive, self.communities)
        return select(
            self.masses,
            budget,
            communities=self.communities,
            scope="global",
            normalize=None,
            floor={n: self.ecology.floor_of(c) for n, c in self.communities.items()},
            ties=self.fitness_values,
        )

    def landing(self) -> Landing:
        """Say how close the run came to its carrying capacity.

        Raises:
            ValueError: if the run has no capacity.
        """
        capacity = self.ecology.capacity
        if capacity is None or self._carried is None:
            refuse("capacity", None, "a run with a carrying capacity")
        return Landing.of(
            capacity,
            num_carried=self._carried,
            num_alive=self.num_alive,
            num_populations=self.communities.num_populations,
            pressure=self._pressure,
        )

    def outlook(self) -> Outlook:
        """Say who is extinct, and in how many steps the next is: the law, played on.

        The masses go on from where they are while everybody stays as fit as on average so far.
        """
        populations = self._populations
        full = self._carried is not None and self.num_alive <= self._carried
        future = Future(
            populations,
            self.dynamic,
            self.ecology,
            pressure=self._pressure,
            rising=self._carried is not None,
            generator=self._generator,
        )
        return describe(
            None if full else future,
            ecology=self.ecology,
            num_alive=self.num_alive,
            num_populations=self.communities.num_populations,
            lowest=populations.lowest(populations.influence[:-1]),
            pressure=self._pressure,
            num_steps=self._steps,
        )

    def forecast(self, num_steps: int) -> str | None:
        """Say before training that the run will hardly land at its capacity, and what would do.

        Args:
            num_steps: how many steps the run has.

        Returns:
            One sentence; None where nothing speaks against it, or there is no capacity.
        """
        if self._carried is None:
            return None
        return foretell(
            self.dynamic,
            self.ecology,
            self._populations.sizes,
            floors=[self.ecology.floor_of(c) for c in self.communities.values()],
            carried=self._carried,
            num_steps=num_steps,
        )
