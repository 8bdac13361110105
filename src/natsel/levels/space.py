"""An individual: how much each community gives, as a vector of levels under one budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from natsel.communities import Communities, Community
from natsel.selection.budget import Gauge
from natsel.selection.normalize import order
from natsel.selection.survivors import Survivors
from natsel.selection.uniform import layers_apart

Level = int | frozenset[int]
"""How many populations a community keeps; of branches, the units that are out."""
Individual = tuple[Level, ...]
"""A level for each community, in their order."""


@dataclass(frozen=True)
class Place:
    """One community of a space.

    Attributes:
        name: of the community.
        ranking: its populations from the fittest to the least fit, by the scores.
        least: how many of them stay at least.
        units: of branches: which of them come and go together, the least fit first; else empty.
        inside: names of tensors that it owns a part of.
    """

    name: str
    ranking: tuple[int, ...]
    least: int
    units: tuple[tuple[int, ...], ...] = ()
    inside: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """How many populations it has."""
        return len(self.ranking)

    @property
    def full(self) -> Level:
        """The level at which nothing goes."""
        return frozenset() if self.units else self.size

    def goes_with(self, dead: set[str]) -> bool:
        """Tell whether nothing of it is left where some tensors are gone."""
        return bool(self.inside) and self.inside <= dead

    @property
    def lowest(self) -> Level:
        """The level at which all goes that may."""
        if not self.units:
            return self.least
        return frozenset(range(len(self.units) - 1))


class Space:
    """All vectors of levels of some places, and what they cost.

    Args:
        places: that give.
        gauge: reads off what survivors cost, and what they may cost.
        kinds: of the places; moves stay within one kind more often than not.
        alike: numbers of places that are interchangeable, group by group.
        owned: names of the tensors that each unit of each place takes with it.
        communities: that the places are, where they are any.
    """

    def __init__(
        self,
        places: Sequence[Place],
        gauge: Gauge,
        *,
        kinds: Sequence[str],
        alike: Sequence[tuple[int, ...]],
        owned: Sequence[Sequence[set[str]]] | None = None,
        communities: Communities | None = None,
    ) -> None:
        self.communities = communities
        self.gauge = gauge
        self.places = tuple(places)
        self.kinds = tuple(kinds)
        self.alike = tuple(alike)
        self._owned: Sequence[Sequence[set[str]]] = [()] * len(places) if owned is None else owned
        self._read: dict[Individual, float] = {}

    @classmethod
    def of_communities(
        cls,
        communities: Communities,
        scores: Mapping[str, Tensor],
        gauge: Gauge,
        *,
        blocks: bool = False,
    ) -> Space:
        """Return the space of some communities.

        Args:
            communities: that give.
            scores: one tensor per community; within it they decide who goes.
            gauge: reads off what survivors cost, and what they may cost.
            blocks: branches of one block come and go together.
        """
        places = tuple(_place(c, scores[c.name], blocks) for c in communities.values())
        groups = layers_apart({p.name: p.size for p in places}, communities, communities)
        number = {place.name: i for i, place in enumerate(places)}
        return cls(
            places,
            gauge,
            kinds=[c.kind for c in communities.values()],
            alike=[tuple(number[name] for name in group) for group in groups],
            owned=[[set(_tensors(communities[p.name], u)) for u in p.units] for p in places],
            communities=communities,
        )

    @property
    def full(self) -> Individual:
        """The individual that gives nothing."""
        return tuple(place.full for place in self.places)

    @property
    def lowest(self) -> Individual:
        """The individual that gives all it can."""
        return tuple(place.lowest for place in self.places)

    def survivors(self, individual: Individual) -> Survivors:
        """Return who survives: the fittest of each community, the branches that are in.

        What a branch took with it gives nothing of its own: all of it survives in name.
        """
        masks = {}
        dead = self.absent(individual)
        for place, level in zip(self.places, individual, strict=True):
            mask = torch.ones(place.size, dtype=torch.bool)
            if isinstance(level, frozenset):
                mask[[b for unit in level for b in place.units[unit]]] = False
            elif not place.goes_with(dead):
                mask[list(place.ranking[level:])] = False
            masks[place.name] = mask
        return Survivors(masks, self.communities)

    def absent(self, individual: Individual) -> set[str]:
        """Return the names of the tensors that go with the branches that are out."""
        gone: set[str] = set()
        for units, level in zip(self._owned, individual, strict=True):
            if isinstance(level, frozenset):
                gone.update(*(units[unit] for unit in level))
        return gone

    def canonical(self, individual: Individual) -> Individual:
        """Return the individual with whole communities where their branch is out."""
        dead = self.absent(individual)
        return tuple(
            place.full if place.goes_with(dead) else level
            for place, level in zip(self.places, individual, strict=True)
        )

    def cost(self, individual: Individual) -> float:
        """Return what the budget reads of an individual; the same one is read once."""
        if individual not in self._read:
            self._read[individual] = self.gauge.read(self.survivors(individual))
        return self._read[individual]

    def meets(self, individual: Individual) -> bool:
        """Tell whether an individual is within the budget."""
        return self.cost(individual) <= self.gauge.limit

    def plain(self, individual: Individual) -> list[Any]:
        """Return an individual as JSON holds it: counts, and numbers of branches that are out."""
        return [
            sorted(b for unit in level for b in place.units[unit])
            if isinstance(level, frozenset)
            else level
            for place, level in zip(self.places, individual, strict=True)
        ]

    def individual(self, plain: Sequence[Any]) -> Individual:
        """Return what :meth:`plain` made plain."""
        return tuple(
            frozenset(i for i, unit in enumerate(place.units) if unit[0] in level)
            if place.units
            else int(level)
            for place, level in zip(self.places, plain, strict=True)
        )

    def of(self, survivors: Mapping[str, Tensor]) -> Individual:
        """Return the levels at which as many survive as in a selection.

        Units of branches are out if all of theirs are.
        """
        levels: list[Level] = []
        for place in self.places:
            alive = survivors[place.name]
            if place.units:
                out = [i for i, unit in enumerate(place.units) if not bool(alive[list(unit)].any())]
                levels.append(frozenset(out[: len(place.units) - 1]))
            else:
                levels.append(max(int(alive.sum()), place.least))
        return self.canonical(tuple(levels))


def with_level(individual: Individual, at: int, level: Level) -> Individual:
    """Return an individual with another level in one place."""
    return (*individual[:at], level, *individual[at + 1 :])


def sites(space: Space) -> list[tuple[int, int | None]]:
    """Return where a move can give or take: a community, or one unit of branches."""
    found: list[tuple[int, int | None]] = []
    for at, place in enumerate(space.places):
        found += [(at, unit) for unit in range(len(place.units))] if place.units else [(at, None)]
    return found


def _place(community: Community, scores: Tensor, blocks: bool) -> Place:
    values = scores.reshape(-1).double()
    ranking = tuple(order(values).tolist())
    least = max(1, community.minimum)
    inside = frozenset(part.tensor for part in community.slices)
    if not community.branches:
        return Place(community.name, ranking, least, inside=inside)
    groups: dict[str, list[int]] = {}
    for number, branch in enumerate(community.branches):
        key = (branch.block or branch.holder) if blocks else branch.name
        groups.setdefault(key, []).append(number)
    units = sorted(map(tuple, groups.values()), key=lambda unit: float(values[list(unit)].sum()))
    return Place(community.name, ranking, least, tuple(units), inside)


def _tensors(community: Community, unit: Sequence[int]) -> Iterator[str]:
    for number in unit:
        yield from community.branches[number].tensors
