"""Moves in a space of levels: swaps that keep the budget, and the plans that a search starts from.

An individual is *full* if it is within the budget and the community that was given to last could
not get one population more. A swap gives a level here and takes one there, until that holds again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.levels.space import Individual, Level, Space, sites, with_level

STEPS = (1 / 64, 1 / 32, 1 / 16, 1 / 8)
"""Shares of a community that one swap gives to it."""
KIN = 0.7
"""How often a swap stays within one kind."""
FINE = 1 << 14
"""Into how many steps the share of a uniform plan is cut."""
TRIES = 32
"""How often a swap that changed nothing is drawn anew."""

Site = tuple[int, int | None]


class Move(NamedTuple):
    """One swap.

    Attributes:
        child: what came of it.
        gets: numbers of the sites that got something.
        gives: numbers of the sites that gave.
    """

    child: Individual
    gets: tuple[int, ...]
    gives: tuple[int, ...]


def swap(
    space: Space,
    parent: Individual,
    *,
    getting: Tensor,
    giving: Tensor,
    generator: torch.Generator,
    swaps: int = 1,
) -> Move:
    """Return a child of an individual that costs as much: what one site gets, others give.

    Args:
        space: of both.
        parent: within the budget.
        getting: weight of each site for being given to, ``[sites]``.
        giving: the same for being taken from.
        generator: where all randomness comes from.
        swaps: how many.

    Returns:
        The child, and which sites took part; the parent itself where no swap is possible.
    """
    for _ in range(TRIES):
        child, gets, gives = parent, list[int](), list[int]()
        for _ in range(swaps):
            child, got, gave = _swapped(space, child, getting, giving, generator)
            gets += got
            gives += gave
        if child != parent and gets and gives:
            return Move(child, tuple(gets), tuple(gives))
    return Move(parent, (), ())


def _swapped(
    space: Space,
    parent: Individual,
    getting: Tensor,
    giving: Tensor,
    generator: torch.Generator,
) -> tuple[Individual, list[int], list[int]]:
    all_sites = sites(space)
    kinds = [space.kinds[at] for at, _ in all_sites]
    got = _drawn(getting, [_can_get(space, parent, s) for s in all_sites], generator)
    if got is None:
        return parent, [], []
    child = _given(space, parent, all_sites[got], generator)
    gives: list[int] = []
    kin = float(torch.rand((), generator=generator)) < KIN
    while not space.meets(child):
        able = [
            i != got and i not in gives and can_give(space, child, s)
            for i, s in enumerate(all_sites)
        ]
        near = [a and (not kin or k == kinds[got]) for a, k in zip(able, kinds, strict=True)]
        gave = _drawn(giving, near if any(near) else able, generator)
        if gave is None:
            return parent, [], []
        child = taken(space, child, all_sites[gave])
        gives.append(gave)
    first = [all_sites[got][0], *(all_sites[i][0] for i in reversed(gives))]
    return filled(space, child, first, generator), [got], gives


def _drawn(weights: Tensor, able: Sequence[bool], generator: torch.Generator) -> int | None:
    weighed = weights.double() * torch.tensor(able, dtype=torch.float64)
    if not float(weighed.sum()) > 0:
        return None
    return int(torch.multinomial(weighed, 1, generator=generator))


def _can_get(space: Space, individual: Individual, site: Site) -> bool:
    level, place = individual[site[0]], space.places[site[0]]
    return site[1] in level if isinstance(level, frozenset) else level < place.size


def can_give(space: Space, individual: Individual, site: Site) -> bool:
    """Tell whether a community, or a unit of branches, has anything to give."""
    level, place = individual[site[0]], space.places[site[0]]
    if isinstance(level, frozenset):
        return site[1] not in level and len(level) < len(place.units) - 1
    return level > place.least and not place.goes_with(space.absent(individual))


def _given(
    space: Space, individual: Individual, site: Site, generator: torch.Generator
) -> Individual:
    at, unit = site
    level = individual[at]
    if isinstance(level, frozenset):
        return with_level(individual, at, level - {unit})
    size = space.places[at].size
    share = STEPS[int(torch.randint(len(STEPS), (), generator=generator))]
    return with_level(individual, at, min(size, level + max(1, round(share * size))))


def taken(space: Space, individual: Individual, site: Site) -> Individual:
    """Take a unit of branches, or as few populations as the budget asks for."""
    at, unit = site
    level = individual[at]
    if isinstance(level, frozenset):
        assert unit is not None
        return space.canonical(with_level(individual, at, level | {unit}))
    low, high = space.places[at].least, level
    if not space.meets(with_level(individual, at, low)):
        return with_level(individual, at, low)
    while high - low > 1:
        middle = (low + high) // 2
        if space.meets(with_level(individual, at, middle)):
            low = middle
        else:
            high = middle
    return with_level(individual, at, low)


def filled(
    space: Space,
    individual: Individual,
    first: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Individual:
    """Return an individual to which is given what the budget leaves.

    Args:
        space: of it.
        individual: within the budget.
        first: places that are filled before others, to the last population that fits; then one of
            each kind that is alike.
        generator: chooses that one; the first without.
    """
    if space.cost(individual) == space.gauge.limit:
        return space.canonical(individual)
    others = []
    for group in space.alike:
        pick = 0
        if generator is not None:
            pick = int(torch.randint(len(group), (), generator=generator))
        others.append(group[pick])
    for at in dict.fromkeys((*first, *others)):
        individual = with_level(individual, at, _fullest(space, individual, at))
    return space.canonical(individual)


def _fullest(space: Space, individual: Individual, at: int) -> Level:
    """Return the highest level in one place that the budget allows."""
    level = individual[at]
    if isinstance(level, frozenset):
        for unit in sorted(level, reverse=True):  # the fittest first
            without = level - {unit}
            if space.meets(with_level(individual, at, without)):
                level = without
        return level
    low, step = level, 1
    size = space.places[at].size
    while low < size and space.meets(with_level(individual, at, min(low + step, size))):
        low, step = min(low + step, size), 2 * step
    while step > 1:
        step //= 2
        if low + step <= size and space.meets(with_level(individual, at, low + step)):
            low += step
    return low


def uniform(space: Space) -> Individual:
    """Return the plan in which each community gives the same share, its least fit.

    Raises:
        ValueError: if no vector of levels meets the budget; the nearest is said.
    """
    gauge = space.gauge
    lowest = space.lowest
    if not space.meets(lowest):
        told = gauge.describe(space.cost(lowest))
        refuse(gauge.name, gauge.asked, f"at least {told}, the nearest that any levels reach")
    few, many = -1, FINE
    while many - few > 1:
        middle = (few + many) // 2
        if space.meets(_even(space, middle / FINE)):
            many = middle
        else:
            few = middle
    return filled(space, _even(space, many / FINE))


def _even(space: Space, share: float) -> Individual:
    """Return the individual in which each community gives a share."""
    levels: list[Level] = []
    for place in space.places:
        if place.units:
            levels.append(
                frozenset(range(min(round(share * len(place.units)), len(place.units) - 1)))
            )
        else:
            levels.append(max(place.size - round(share * place.size), place.least))
    return space.canonical(tuple(levels))


def mended(space: Space, individual: Individual, order: Sequence[int]) -> Individual:
    """Return an individual that meets the budget: places give in an order, then are filled."""
    for at in order:
        place = space.places[at]
        for unit in range(max(1, len(place.units))):
            if space.meets(individual):
                return filled(space, individual)
            site = (at, unit if place.units else None)
            if can_give(space, individual, site):
                individual = taken(space, individual, site)
    return filled(space, individual)


def additive(space: Space, scores: Mapping[str, Tensor], scale: str | None) -> Individual:
    """Return the plan that lets go, of all populations together, what scores least.

    Args:
        space: of the plan.
        scores: one tensor per community.
        scale: "mean" compares scores over the mean of their community, None as they are.
    """
    entries: list[tuple[float, int, int]] = []
    for at, place in enumerate(space.places):
        values = scores[place.name].reshape(-1).double()
        if scale == "mean":
            values = values / values.abs().mean().clamp_min(1e-300)
        if place.units:
            entries += [(float(values[list(u)].mean()), at, i) for i, u in enumerate(place.units)]
        else:
            worst = reversed(place.ranking[place.least :])
            entries += [(float(values[i]), at, -1) for i in worst]
    entries.sort(key=lambda e: e[0])

    def after(num: int) -> Individual:
        levels = list(space.full)
        for _, at, unit in entries[:num]:
            level = levels[at]
            if not isinstance(level, frozenset):
                levels[at] = level - 1
            elif len(level) < len(space.places[at].units) - 1:
                levels[at] = level | {unit}
        return space.canonical(tuple(levels))

    few, many = -1, len(entries)
    while many - few > 1:
        middle = (few + many) // 2
        if space.meets(after(middle)):
            many = middle
        else:
            few = middle
    return filled(space, after(many))
