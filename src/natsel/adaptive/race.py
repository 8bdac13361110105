"""A race: candidates run on growing shares of the samples, and the clearly worse stop early."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from natsel.adaptive.arena import Arena, key_of

RUNGS = (0.125, 0.25, 0.5, 1.0)
"""Shares of the samples after which a race looks who goes on."""
CLEARLY = 1.5
"""By how many standard errors behind the leader a candidate is clearly worse."""
BEHIND = 1e-6


def race(
    arena: Arena,
    candidates: Sequence[Mapping[str, Tensor]],
    leader: Mapping[str, Tensor],
    *,
    rungs: Sequence[float] = RUNGS,
    halving: bool = True,
) -> Tensor:
    """Estimate what candidates are worth, spending samples on those that may win.

    After each rung a candidate stops if its difference to the leader, on the samples that both
    have seen, is more than 1.5 standard errors below 0, and (successive halving) if half of the
    candidates are better. Equal survivors are run once. What a sample is worth is what the arena
    measures: whether it is right, or minus its mean loss.

    Args:
        arena: where they run.
        candidates: selections.
        leader: the incumbent, run on all samples.
        rungs: shares of the samples, rising, the last one 1.
        halving: stop the worse half after each rung, too.

    Returns:
        ``[m]``: the leader's mean plus the paired difference on the samples seen. Of those
        that went all the way it is their own mean, and the largest value is one of theirs (unless
        none went all the way: then all are behind the leader).
    """
    best = arena.values(leader)
    keys = [key_of(c) for c in candidates]
    running = list(dict(zip(keys, candidates, strict=True)))
    by_key = dict(zip(keys, candidates, strict=True))
    values: dict[str, float] = {}
    for rung in rungs:
        stop = min(len(arena), max(arena.least, math.ceil(rung * len(arena))))
        behind = {}
        for key in running:
            step = arena.values(by_key[key], stop) - best[:stop]
            values[key] = float(best.mean() + step.mean())
            behind[key] = float(step.mean()) < -CLEARLY * float(step.std()) / math.sqrt(stop)
        running = sorted((k for k in running if not behind[k]), key=lambda k: -values[k])
        if halving:
            running = running[: math.ceil(len(running) / 2)]
    # A stopped candidate was estimated on few samples: it ranks behind the best that finished.
    finished = [k for k in values if len(arena.known(by_key[k])) == len(arena)]
    best_value = max((values[k] for k in finished), default=float(best.mean()))
    for key in set(values) - set(finished):
        values[key] = min(values[key], best_value - BEHIND)
    return torch.tensor([values[key] for key in keys], dtype=torch.float64)
