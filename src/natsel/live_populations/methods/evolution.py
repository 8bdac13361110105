"""Evolution in time: mass decays unless attended, by each of natsel's laws."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from natsel.common.errors import refuse
from natsel.common.numbers import is_number, is_whole
from natsel.dynamics import Dynamic, Step
from natsel.dynamics import get as law_of
from natsel.live_populations.entries import Entries
from natsel.live_populations.methods.key_diff import key_diff

CEILING = 0.999
"""A mass of exactly 1 is at rest under the logistic law, whatever its fitness: stay below."""

MASS, BORN = "mass", 1.0


def evolution(
    entries: Entries,
    *,
    dynamics: str | Dynamic | Step = "logistic",
    rate: float | None = None,
    pressure: float | None = None,
    level: float = 0.02,
    every: int = 16,
    kernel: int = 5,
    unasked: float = 0.0,
    values: bool = False,
    distinct: bool = False,
) -> Tensor:
    r"""Return the mass of each entry, after it has lived through the queries of this call.

    Entries are born with mass 1 and compete in their head. The fitness of entry j is the attention
    that it receives, relative to its share if all n that the query sees received the same,

    $$f_j = \frac{1}{Q} \sum_q n_q\, a_{qj}$$

    divided by its mean over the living, so that it is 1 on average; time goes on by ``rate`` with
    each query. There is no schedule: an entry whose mass falls under the level is extinct, and
    leaves. A budget is a carrying capacity besides.

    Args:
        entries: of a layer.
        dynamics: a law's name, a law, or a step function.
        rate: time that passes with one query; None for the law's.
        pressure: of selection; None for the law's.
        level: an entry whose mass stays under it goes extinct.
        every: queries in one step at most, where a call has many.
        kernel: an odd number of neighbours that share what they receive, before it is divided; 1
            for none. What follows an entry that is attended is asked for next.
        unasked: equal shares of attention that everybody is taken to get besides, from who has
            not asked yet; 0 for none.
        values: whether fitness is weighed by the size of the value that an entry brings.
        distinct: whether it is weighed by how unlike the other keys its key is,
            \(1 - \cos(k_j, \mu)\) as in ``key-diff``.

    Raises:
        ValueError: if an option is wrong.
    """
    law = law_of(dynamics)
    rate = law.rate if rate is None else rate
    pressure = law.pressure if pressure is None else pressure
    _check(rate, pressure, level, every, kernel, unasked)
    mass = entries.remembered(MASS, BORN).masked_fill_(~entries.alive, 0.0)
    worth = _worth(entries, values, distinct)
    asked = _real_first(entries)
    done = asked.queries.shape[2] - asked.num_new
    for weights in asked.in_time(most=every):
        at = asked.query_positions[:, done : done + weights.shape[-2]]
        done += weights.shape[-2]
        before, fitness, living = _measured(
            mass, weights, entries.positions, at, kernel, unasked, worth
        )
        if law.space == "box":
            before = before.clamp(max=CEILING)
        num = (at >= 0).sum(-1)
        generator = entries.generator if law.stochastic else None
        # A step takes one time for all: rows of another padding take theirs in turn.
        for count in sorted(set(num.tolist())):
            if not count:
                continue
            after = law.step(before, fitness, rate * count, pressure=pressure, generator=generator)
            after = after.masked_fill(after < level, 0.0)
            mass = torch.where(living & (num == count)[:, None, None], after, mass)
    entries.memory[MASS] = mass
    return mass


def extinct(entries: Entries) -> Tensor:
    """Return whose mass is gone, after :func:`evolution`."""
    return entries.memory[MASS] <= 0


def _worth(entries: Entries, values: bool, distinct: bool) -> Tensor | float:
    """Return what the attention that an entry receives is multiplied by."""
    worth: Tensor | float = 1.0
    if values:
        dtype = torch.promote_types(entries.values.dtype, torch.float32)
        worth = worth * torch.linalg.vector_norm(entries.values, dim=-1, dtype=dtype)
    if distinct:
        worth = worth * (1 + key_diff(entries))
    return worth


def _real_first(entries: Entries) -> Entries:
    """Return the entries with the queries that are no padding first, so that time begins there."""
    padding = entries.query_positions[:, -entries.num_new :] < 0
    if not bool(padding.any()):
        return entries
    order = padding.to(torch.uint8).argsort(dim=-1, stable=True)
    queries = entries.queries[:, :, -entries.num_new :]
    index = order[:, None, :, None].expand(queries.shape)
    at = entries.query_positions[:, -entries.num_new :].gather(-1, order)
    return replace(entries, queries=queries.gather(2, index), query_positions=at)


def _measured(
    mass: Tensor,
    weights: Tensor,
    positions: Tensor,
    at: Tensor,
    kernel: int,
    unasked: float,
    worth: Tensor | float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return masses and fitness of those who are born by a block of queries, and who lives."""
    newest = at.amax(-1)[:, None, None]  # -1 for a row of padding, in which nobody is born yet
    living = (positions >= 0) & (positions <= newest) & (mass > 0)
    seen = (weights > 0).sum(-1, keepdim=True).to(weights.dtype)
    fitness = (weights * seen).mean(2).sum(2)
    if kernel > 1:
        fitness = F.avg_pool1d(fitness, kernel, stride=1, padding=kernel // 2)
    fitness = (fitness + unasked * (at >= 0).sum(-1)[:, None, None]) * worth
    num = living.sum(-1, keepdim=True).clamp(min=1)
    mean = fitness.masked_fill(~living, 0.0).sum(-1, keepdim=True) / num
    fitness = torch.where(living, fitness / mean.clamp(min=1e-12), torch.zeros_like(fitness))
    return torch.where(living, mass, torch.zeros_like(mass)), fitness, living


def _check(
    rate: float, pressure: float, level: float, every: int, kernel: int, unasked: float
) -> None:
    if not is_number(rate) or not 0 < rate < float("inf"):
        refuse("rate", rate, "a number > 0")
    if not is_number(pressure) or not 0 <= pressure < float("inf"):
        refuse("pressure", pressure, "a number >= 0")
    if not is_number(level) or not 0 <= level < BORN:
        refuse("level", level, "a mass in [0, 1)")
    if not is_whole(every):
        refuse("every", every, "a whole number >= 1")
    if not is_whole(kernel) or kernel % 2 == 0:
        refuse("kernel", kernel, "an odd whole number")
    if not is_number(unasked) or not 0 <= unasked < float("inf"):
        refuse("unasked", unasked, "a number >= 0")
