"""A plan by taking one thing after the other, whichever costs least beside what went already.

Scores of single branches know nothing of who else goes. Each step judges all that could go next
beside what is gone, a branch or a part of a community, for each part of the budget that it saves,
in a race: most fall after a window or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from natsel.levels.judge import Judge
from natsel.levels.moves import Site, can_give, filled, taken, uniform
from natsel.levels.racing import race
from natsel.levels.space import Individual, Space, sites, with_level

RUNGS = (0.125, 0.25, 0.5, 1.0)
GO_ON = (0.5, 0.25, 0.1)
PART = 1 / 8
"""Of a community that goes in one step."""
SHARE = 0.3
"""Of its windows that a candidate sees on average, by the rungs."""


def taken_out(
    space: Space,
    judge: Judge,
    windows: Callable[[], list[int]],
    *,
    room: float,
    keep: Callable[[], None] = lambda: None,
) -> Individual | None:
    """Return the plan that comes of taking one unit of branches, or part of a community, at a time.

    Args:
        space: of plans.
        judge: of plans.
        windows: returns those that the next step races on.
        room: windows that may be run; where they are too few for single steps, more goes in each.
        keep: is called after each step.

    Returns:
        None where not even one step is within the room, or nothing is left to take.
    """
    individual, first = space.full, windows()
    depth = all(place.units for place in space.places)
    num = len(sites(space))
    chunk = _chunk(num, _num_steps(space), room / (SHARE * len(first)), used_up=depth)
    if chunk is None:
        return None
    began, order = judge.num_windows, list[Site]()
    while not space.meets(individual):
        able = [s for s in sites(space) if can_give(space, individual, s)]
        if not able:
            return None
        if depth or judge.num_windows - began < room:
            order = _cheapest(space, judge, individual, able, first)
        elif not any(site in able for site in order[:chunk]):
            order = able
        for site in order[:chunk]:  # where the room is used up, those that were cheapest last
            if not space.meets(individual) and can_give(space, individual, site):
                individual = _fewer(space, individual, site)
        first = windows()
        keep()
    return filled(space, individual)


def _fewer(space: Space, individual: Individual, site: Site) -> Individual:
    """Take a unit of branches, or a part of a community; no more than the budget asks for."""
    at, level = site[0], individual[site[0]]
    place = space.places[at]
    if isinstance(level, frozenset):
        return taken(space, individual, site)
    low = max(place.least, level - max(1, round(PART * place.size)))
    child = with_level(individual, at, low)
    return taken(space, individual, site) if space.meets(child) else child


def _num_steps(space: Space) -> int:
    """Return in about how many steps the budget is met: of branches alone exactly so many."""
    if all(place.units for place in space.places):
        return sum(len(level) for level in uniform(space) if isinstance(level, frozenset))
    whole = space.cost(space.full)
    able = [site for site in sites(space) if can_give(space, space.full, site)]
    saved = [whole - space.cost(_fewer(space, space.full, site)) for site in able]
    mean = sum(saved) / max(1, len(saved))
    return max(1, math.ceil((whole - space.gauge.limit) / mean)) if mean > 0 else 1


def _cheapest(
    space: Space,
    judge: Judge,
    individual: Individual,
    able: Sequence[Site],
    windows: Sequence[int],
) -> list[Site]:
    """Return sites by what taking them out costs, for each part of the budget that it saves."""
    current = space.survivors(individual)
    judge.stand_on(current)
    before = judge.value(current, windows)
    children = [_fewer(space, individual, site) for site in able]
    saved = [max(space.cost(individual) - space.cost(child), 1e-12) for child in children]
    plans = [space.survivors(child) for child in children]

    def rank(number: int, mean: float) -> float:
        return (mean - before) / saved[number]

    race(judge, plans, None, windows, rungs=RUNGS, go_on=GO_ON, rank=rank)
    keys = []
    for number, plan in enumerate(plans):
        seen = [w for w in windows if w in judge.seen(plan)]
        keys.append((-len(seen), rank(number, judge.value(plan, seen)) if seen else math.inf))
    return [able[i] for i in sorted(range(len(able)), key=lambda i: keys[i])]


def _chunk(num: int, goes: int, room: float, *, used_up: bool = True) -> int | None:
    """Return how many sites give in one step, so that few enough candidates are judged.

    Args:
        num: of the sites.
        goes: how often one gives in all.
        room: candidates that may be judged.
        used_up: who gave can give no more, as a branch.

    Example:
        >>> _chunk(30, 7, 200), _chunk(30, 7, 100), _chunk(30, 7, 20)
        (1, 3, None)
        >>> _chunk(30, 7, 200, used_up=False)
        2
    """
    for chunk in range(1, goes + 1):
        steps = range(0, goes, chunk)
        if sum(num - out if used_up else num for out in steps) <= room:
            return chunk
    return None
