"""A plan of depth by taking out one branch after the other, whichever costs least beside the rest.

Scores of single branches know nothing of who else goes. Each step judges all that are left beside
those that are out, in a race: most fall after a window or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from natsel.levels.judge import Judge
from natsel.levels.moves import Site, can_give, filled, taken, uniform
from natsel.levels.racing import race
from natsel.levels.space import Individual, Space, sites

RUNGS = (0.125, 0.25, 0.5, 1.0)
GO_ON = (0.5, 0.25, 0.1)
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
    """Return the plan that comes of taking out one unit of branches at a time.

    Args:
        space: of branches alone.
        judge: of plans.
        windows: returns those that the next step races on.
        room: windows that may be run; where they are too few for single steps, more units go in
            each.
        keep: is called after each step.

    Returns:
        None where anything but branches gives, or not even one step is within the room.
    """
    if not all(place.units for place in space.places):
        return None
    individual, first = space.full, windows()
    goes = sum(len(level) for level in uniform(space) if isinstance(level, frozenset))
    chunk = _chunk(len(sites(space)), goes, room / (SHARE * len(first)))
    if chunk is None:
        return None
    while not space.meets(individual):
        able = [s for s in sites(space) if can_give(space, individual, s)]
        if not able:
            return None
        for site in _cheapest(space, judge, individual, able, first)[:chunk]:
            if not space.meets(individual) and can_give(space, individual, site):
                individual = taken(space, individual, site)
        first = windows()
        keep()
    return filled(space, individual)


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
    children = [taken(space, individual, site) for site in able]
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


def _chunk(num: int, goes: int, room: float) -> int | None:
    """Return how many units go in one step, so that few enough candidates are judged.

    Example:
        >>> _chunk(30, 7, 200), _chunk(30, 7, 100), _chunk(30, 7, 20)
        (1, 3, None)
    """
    for chunk in range(1, goes + 1):
        if sum(num - out for out in range(0, goes, chunk)) <= room:
            return chunk
    return None
