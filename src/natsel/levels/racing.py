"""A race of selections on growing data: who cannot win any more stops."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from natsel.levels.judge import Judge

RUNGS = (0.25, 0.5, 1.0)
"""Shares of the windows after which a race looks who goes on."""
GO_ON = (0.5, 0.25)
"""Which share of all children goes on to the next rung, at least one."""
BEHIND = 0.1
"""By which share of the incumbent's sum a child may be behind it on the windows of a rung."""


def race(
    judge: Judge,
    candidates: Sequence[Mapping[str, Tensor]],
    bound: Tensor | None,
    windows: Sequence[int],
    *,
    rungs: Sequence[float] = RUNGS,
    go_on: Sequence[float] = GO_ON,
    behind: float = BEHIND,
    rank: Callable[[int, float], float] = lambda _, mean: mean,
) -> list[float]:
    """Judge candidates on growing data; who cannot win any more stops.

    What a window comes to is never negative, so that a candidate whose sum over the windows seen
    exceeds that of the incumbent over all of them is worse, whatever comes: it stops. After each
    rung but the last, those stop, too, that are far behind the incumbent on the windows that both
    have seen, and of the others only a share goes on, the best so far.

    Args:
        judge: of candidates.
        candidates: selections.
        bound: what each window comes to for the incumbent, ``[windows]``; None if there is none.
        windows: on which they race, in this order.
        rungs: shares of the windows, rising, the last one 1.
        go_on: shares of the candidates that go on after each rung but the last.
        behind: share by which a candidate may be behind.
        rank: from the number of a candidate and its mean so far to what it is ranked by among the
            others, lower is better.

    Returns:
        The mean over all windows of those that saw them all; infinity of the others, which are not
        known to be better.
    """
    most = math.inf if bound is None else float(bound.sum())
    totals = [math.inf] * len(candidates)
    seen = [math.inf] * len(candidates)
    running = list(range(len(candidates)))
    for number, rung in enumerate(rungs):
        stop = min(len(windows), max(1, math.ceil(rung * len(windows))))
        last = stop == len(windows)
        there = math.inf if bound is None else float(bound[:stop].sum())
        left = []
        for i in running:
            total = 0.0
            for upto in range(1, stop + 1):  # window by window, so that none is run in vain
                total = float(judge.totals(candidates[i], windows[:upto]).sum())
                if not total < most:
                    break
            seen[i] = total / float(judge.places[list(windows[:upto])].sum())
            if last and total < most:
                totals[i] = total
            if total < most and (last or not total > (1 + behind) * there):
                left.append(i)
        running = sorted(left, key=lambda i: rank(i, seen[i]))
        if number < len(go_on):
            running = running[: max(1, math.ceil(go_on[number] * len(candidates)))]
        if last:
            break
    whole = float(judge.places[list(windows)].sum())
    return [total / whole for total in totals]
