"""The state of every population: mass, averaged fitness, who lives, who is about to die."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from natsel.common.errors import NonFiniteError
from natsel.dynamics import Dynamic
from natsel.evolution.ecology import Ecology

CEILING = 0.999
"""A mass of exactly 1 is at rest under the logistic law, whatever its fitness: stay below."""

RESERVE = 0.1
"""Share of the extinction level that the living keep in a box: from exactly 0 nobody returns."""

MAX_PER_MASS = 50.0
"""Bound of the fitness per unit of mass, so that a nearly extinct population cannot explode."""

TENSORS = ("mass", "average", "alive", "below")


@dataclass
class Group:
    """Communities of one size, evolved in one call: views of shape ``[communities, size]``.

    Attributes:
        positions: which communities, in the order of the model.
        mass: as the law evolves it.
        average: the averaged fitness.
        alive: 1 for the living.
        floors: how many survive at least, ``[communities, 1]``.
        living: how many live, ``[communities, 1]``.
        competition: the last measured matrix ``[communities, size, size]``, if a law wants one.
        exposed: 1 where pressure is felt, ``[communities, 1]``; None if no community is at its
            floor.
    """

    positions: list[int]
    mass: Tensor
    average: Tensor
    alive: Tensor
    floors: Tensor
    living: Tensor
    competition: Tensor | None = None
    exposed: Tensor | None = None


class Populations:
    """All populations of a model in flat tensors, communities of one size side by side.

    A deep copy keeps which tensors are views of which.

    Attributes:
        groups: the communities by size.
        rows: each community's position with the view of its influence, in the flat order.
        starts: where each community begins, in the order of the model.
        mass: as the law evolves it.
        influence: what masses scale the network by; the last element belongs to no population.
        average: the averaged fitness.
        alive: 1 for the living.
        below: for how many steps a population has been under the extinction level.
        num_alive: how many live.

    Args:
        sizes: how many populations each community has, by name.
        ecology: constants of the run.
        space: of the law: in the box a mass is its influence, on the simplex it bounds it.
        signed: whether a fitness may be negative; what is counts as 0.
        device: where the tensors are.
        floors: how many populations of each community survive at least, in their order.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        ecology: Ecology,
        *,
        space: Literal["simplex", "box"],
        signed: bool,
        device: torch.device,
        floors: Sequence[int],
    ) -> None:
        self.sizes = dict(sizes)
        self._floors = tuple(floors)
        self._ecology = ecology
        self._space = space
        self._signed = signed
        total = sum(self.sizes.values())
        initial = 1.0 if space == "simplex" else min(ecology.initial, CEILING)
        self.influence = torch.ones(total + 1, device=device)
        self._of_all = self.influence[:-1]
        on_simplex = space == "simplex"
        self.mass = torch.ones(total, device=device) if on_simplex else self._of_all
        self.mass.fill_(initial)
        self.average = torch.zeros(total, device=device)
        self.alive = torch.ones(total, device=device)
        self.below = torch.zeros(total, device=device)
        self._lay_out()
        self._count()
        self.press(ecology.pressure)

    def _lay_out(self) -> None:
        members: dict[int, list[int]] = defaultdict(list)
        for position, size in enumerate(self.sizes.values()):
            members[size].append(position)
        self.groups: list[Group] = []
        self.rows: list[tuple[int, Tensor]] = []
        self._firsts: list[int] = []
        stop = 0
        for size, positions in members.items():
            start = stop
            for position in positions:
                self._firsts.append(stop)
                self.rows.append((position, self.influence[stop : stop + size]))
                stop += size
            mass, average, alive = (
                flat[start:stop].view(len(positions), size)
                for flat in (self.mass, self.average, self.alive)
            )
            floors = alive.new_tensor([[self._floors[p]] for p in positions])
            living = alive.sum(-1, keepdim=True)
            self.groups.append(Group(positions, mass, average, alive, floors, living))
        self.starts = [0] * len(self.sizes)
        for (position, _), first in zip(self.rows, self._firsts, strict=True):
            self.starts[position] = first

    def _count(self) -> None:
        self.num_alive = int(self.alive.sum())
        self._longest_below = int(self.below.max())
        self._dead = 1.0 - self.alive
        exposures = []
        for group in self.groups:
            group.living = group.alive.sum(-1, keepdim=True)
            exposed = (group.living > group.floors).float()
            group.exposed = None if bool(exposed.all()) else exposed
            exposures.append(exposed.expand_as(group.alive).reshape(-1))
        any_sheltered = any(group.exposed is not None for group in self.groups)
        self._exposed = torch.cat(exposures) if any_sheltered else None

    # One step.

    def confined(self, mass: Tensor) -> Tensor:
        """Keep new masses where masses may be, and the extinct at 0, in place."""
        if self._space == "box":
            mass.clamp_(RESERVE * self._ecology.level, CEILING)
        return mass.mul_(self.alive) if self.num_alive < len(mass) else mass

    def influence_of(self, mass: Tensor, pressure: float) -> Tensor:
        """Return what masses scale the network by, in [0, 1], both flat.

        In the box it is the mass itself. On the simplex the mean mass of a community's living is
        1, and a population needs ``pressure`` times that for its full influence.
        """
        if self._space == "box":
            return mass
        needed = torch.full_like(mass, max(pressure, 1e-6))
        if self._exposed is not None:
            needed.mul_(self._exposed).clamp_(min=1e-6)
        return (mass / needed).clamp_(max=1.0)

    def lowest(self, influence: Tensor) -> float:
        """Return the least influence of the living, NaN if one is NaN."""
        if self.num_alive < len(influence):
            influence = influence + self._dead
        return float(influence.min())

    def take(self, mass: Tensor, influence: Tensor) -> None:
        """Make new masses and the influence that follows from them the present ones."""
        self.mass.copy_(mass)
        if self._space == "simplex":
            self._of_all.copy_(influence)

    def press(self, pressure: float) -> None:
        """Let the influence follow the pressure."""
        if self._space == "simplex":
            self._of_all.copy_(self.influence_of(self.mass, pressure))

    def relative(self, group: Group) -> Tensor:
        """Divide by the mean of the community's living, so that communities are comparable.

        The average of the dead is 0.
        """
        value = group.average.clamp(min=0.0) if self._signed else group.average
        mean = value.sum(-1, keepdim=True).div_(group.living)
        return value / mean.clamp_(min=1e-30)

    def all_relative(self) -> Tensor:
        """Return :meth:`relative` of all, flat."""
        return torch.cat([self.relative(g).reshape(-1) for g in self.groups])

    def payoff(self, group: Group) -> Tensor:
        """Return the fitness that the law sees.

        A signal such as |m dL/dm| is what a whole population contributes. Laws of the simplex
        describe growth per unit of mass: there it is divided by the mass, so that a population
        that has more than it makes use of loses to one that has less.
        """
        relative = self.relative(group)
        if self._space == "box":
            return relative
        return (relative / group.mass.clamp(min=1e-6)).clamp_(max=MAX_PER_MASS)

    def intensity(self, group: Group, pressure: float, *, full: bool) -> float | Tensor:
        """Return the pressure that the law is given: none where nobody may die.

        On the simplex pressure is not a rate: it is the share of mass that full influence takes.

        Args:
            group: at its floor no community feels any.
            pressure: the selection pressure now.
            full: whether no more live than the environment carries.
        """
        felt = 0.0 if full else 1.0 if self._space == "simplex" else pressure
        return felt if group.exposed is None else felt * group.exposed

    def stepped(
        self,
        group: Group,
        dynamic: Dynamic,
        pressure: float,
        generator: torch.Generator,
        *,
        full: bool,
    ) -> Tensor:
        """Return the masses of one group after one step of the law.

        Args:
            group: whose.
            dynamic: the law.
            pressure: the selection pressure now.
            generator: what chance is drawn from.
            full: whether no more live than the environment carries.
        """
        return dynamic.step(
            group.mass,
            self.payoff(group),
            self._ecology.rate * self._ecology.every,
            pressure=self.intensity(group, pressure, full=full),
            competition=group.competition,
            generator=generator,
        )

    def extinguish(self, *, lowest: float, carried: int | None) -> None:
        """Declare dead what stayed under the level, the smallest first, down to what is carried.

        Ties are broken by fitness, then by index.

        Args:
            lowest: what :meth:`lowest` said of the present influence.
            carried: how many populations the environment carries; None if it does not matter.
        """
        level = self._ecology.level
        if lowest >= level:
            if self._longest_below:
                self.below.zero_()
                self._longest_below = 0
            return
        self.below.add_(self.alive).mul_(self._of_all < level)
        patience = self._ecology.patience / self._ecology.every
        # At most one more than before: who is under need not be looked at before that is enough.
        self._longest_below += 1
        if self._longest_below < patience:
            return
        self._longest_below = int(self.below.max())
        if self._longest_below < patience:
            return
        dying = (self.below >= patience).nonzero().reshape(-1)
        candidates = sorted(
            zip(
                self.influence[dying].tolist(),
                self.all_relative()[dying].tolist(),
                dying.tolist(),
                strict=True,
            )
        )
        allowed = len(candidates) if carried is None else self.num_alive - carried
        dead: dict[int, list[int]] = defaultdict(list)
        for _, _, place in candidates[:allowed]:
            dead[bisect_right(self._firsts, place) - 1].append(place)
        for row, places in dead.items():
            self._bury(row, places)
        self._count()

    def _bury(self, row: int, places: list[int]) -> None:
        """Bury populations of one community, the first ones first, down to its floor."""
        first, floor = self._firsts[row], self._floors[self.rows[row][0]]
        whole = slice(first, first + len(self.rows[row][1]))
        places = places[: max(int(self.alive[whole].sum()) - floor, 0)]
        if not places:
            return
        index = torch.tensor(places, device=self.mass.device)
        if self._space == "simplex":
            # The mean mass of the living stays 1.
            living = float(self.alive[whole].sum()) - len(places)
            rest = float(self.mass[whole].sum()) - float(self.mass[index].sum())
            self.mass[whole] *= living / max(rest, 1e-30)
        for flat in (self.mass, self.alive, self.average, self.below):
            flat.index_fill_(0, index, 0.0)

    # By community.

    def by_name(self, flat: Tensor) -> dict[str, Tensor]:
        """Return numbers per population by community, as copies."""
        return {
            name: flat[start : start + size].clone()
            for (name, size), start in zip(self.sizes.items(), self.starts, strict=True)
        }

    def in_order(self, flat: Tensor) -> Tensor:
        """Return numbers per population in the order of the communities."""
        return torch.cat(list(self.by_name(flat).values()))

    def places(self) -> Tensor:
        """Return where in ``influence`` each population is, in the order of the communities.

        The last place is the one of what belongs to no population.
        """
        total = len(self.mass)
        places = self.in_order(torch.arange(total, device=self.mass.device))
        return torch.cat([places, places.new_tensor([total])])

    def check_finite(self, flat: Tensor, what: str, step: int) -> None:
        """Refuse numbers that are none.

        Raises:
            NonFiniteError: naming the community and the step.
        """
        if bool(torch.isfinite(flat).all()):
            return
        for name, values in self.by_name(flat).items():
            if not bool(torch.isfinite(values).all()):
                raise NonFiniteError(
                    f"{what} became NaN or infinite at step {step} in community {name!r}"
                )

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the tensors."""
        return {
            **{name: getattr(self, name).clone() for name in TENSORS},
            "competition": [
                None if g.competition is None else g.competition.clone() for g in self.groups
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any], pressure: float) -> None:
        """Take over what :meth:`state_dict` returned for communities of the same sizes."""
        for name in TENSORS:
            getattr(self, name).copy_(state[name])
        for group, matrix in zip(self.groups, state["competition"], strict=True):
            group.competition = None if matrix is None else matrix.to(self.mass.device, copy=True)
        self._count()
        self.press(pressure)
