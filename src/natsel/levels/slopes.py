"""A plan of shares by what each layer is worth to the whole, measured beside all others.

With a few layers one step denser, what the divergence falls by, over what their own errors fall
by, is what an error there costs. Errors times that, added up, are least where every layer gains
the same for one weight more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

from natsel.levels.judge import Judge
from natsel.levels.space import Individual, Space, with_level
from natsel.levels.steps import Steps

LEAST = 0.1
"""Of the mean worth, what a layer is taken for at least."""


def groups_of(num: int, most: int) -> list[range]:
    """Return consecutive layers in as many groups of one size as may be, but for the last.

    Example:
        >>> groups_of(5, 3)
        [range(0, 2), range(2, 4), range(4, 5)]
    """
    size = -(-num // max(1, most))
    return [range(i, min(i + size, num)) for i in range(0, num, size)]


def worth(
    space: Space,
    judge: Judge,
    steps: Sequence[Steps],
    base: Individual,
    windows: Sequence[int],
    groups: Sequence[range],
) -> list[float]:
    """Return for each layer by how much the whole falls with a unit of its error, at a plan.

    Args:
        space: of plans.
        judge: of plans.
        steps: of the layers, in the order of the space.
        base: the plan that is stood on.
        windows: to judge on.
        groups: of layers that are judged together.
    """
    judge.stand_on(space.survivors(base))
    before = judge.value(space.survivors(base), windows)
    found = [0.0] * len(steps)
    for group in groups:
        child, gained = base, 0.0
        for at in group:
            level = _number(base[at])
            up = min(level + 1, len(steps[at].removed) - 1)
            gained += steps[at].errors[level] - steps[at].errors[up]
            child = with_level(child, at, up)
        if child == base or not gained > 0:
            continue
        fell = before - judge.value(space.survivors(child), windows)
        for at in group:
            found[at] = max(fell, 0.0) / gained
    # Few windows tell little of what is worth little: nothing is taken for worth nothing.
    least = LEAST * sum(found) / len(found)
    return [max(each, least) for each in found]


def plans(
    steps: Sequence[Steps], worths: Sequence[float], base: Individual, limit: float
) -> Iterator[Individual]:
    """Yield the plans of least worth times error, at most one step from another one, two, ...

    Args:
        steps: of the layers.
        worths: see :func:`worth`.
        base: the plan that they were measured at.
        limit: how many weights a plan may leave.

    Example:
        >>> one, two = (Steps(n, 1, 8, (6, 4, 2), (0.8, 0.4, 0.1), 1) for n in "ab")
        >>> list(plans([one, two], [1.0, 5.0], (1, 1), 8))
        [(0, 2)]
    """
    reach = max(len(s.removed) for s in steps)
    seen = {base}
    for far in range(1, reach):
        levels = [max(0, _number(level) - far) for level in base]
        top = [
            min(len(s.removed) - 1, _number(level) + far)
            for s, level in zip(steps, base, strict=True)
        ]
        left = limit - sum(s.left(level) for s, level in zip(steps, levels, strict=True))
        queue: list[tuple[float, int]] = []
        for at, step in enumerate(steps):
            if levels[at] < top[at]:
                queue.append((-_gain(step, worths[at], levels[at]), at))
        heapify(queue)
        while queue:
            _, at = heappop(queue)
            step = steps[at]
            more = step.left(levels[at] + 1) - step.left(levels[at])
            if more > left:
                continue
            left -= more
            levels[at] += 1
            if levels[at] < top[at]:
                heappush(queue, (-_gain(step, worths[at], levels[at]), at))
        found: Individual = tuple(levels)
        if found not in seen:
            seen.add(found)
            yield found


def _gain(step: Steps, worth: float, level: int) -> float:
    """Return what one level more gains for each weight."""
    more = step.left(level + 1) - step.left(level)
    return worth * (step.errors[level] - step.errors[level + 1]) / more


def _number(level: object) -> int:
    assert isinstance(level, int)
    return level


def begun(
    space: Space,
    judge: Judge,
    steps: Mapping[str, Steps],
    even: Individual,
    windows: Sequence[int],
    *,
    room: int,
    rounds: int = 2,
) -> list[Individual]:
    """Return plans that a search may start from, each round measured at the best one so far.

    Args:
        space: of plans.
        judge: of plans.
        steps: of the layers.
        even: the uniform plan.
        windows: of one generation.
        room: how many windows may be run.
        rounds: how often what layers are worth is measured.
    """
    layers = list(steps.values())
    found, best = [even], even
    for _ in range(rounds):
        each = room // rounds
        groups = groups_of(len(layers), each)
        some = windows[: max(1, min(len(windows), each // len(groups)))]
        worths = worth(space, judge, layers, best, some, groups)
        found += plans(layers, worths, best, space.gauge.limit)
        found = list(dict.fromkeys(found))
        best = min(found, key=lambda plan: judge.value(space.survivors(plan), some))
    return found
