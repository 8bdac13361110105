"""Meet one budget: the least fit go until it holds, and not one more."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from natsel.common.errors import NonFiniteError, refuse
from natsel.communities import Communities
from natsel.selection.budget import CostBudget, Gauge, Sparsity
from natsel.selection.counts import Bounds
from natsel.selection.normalize import Normalization, order
from natsel.selection.sequence import Scope, by_score, by_share, first_that_meets
from natsel.selection.uniform import tied_bounds, tied_scores


@dataclass(frozen=True, eq=False)
class Contest:
    """Communities that have to meet one budget together.

    Attributes:
        scores: ``[n]`` per community.
        ties: a second score per community, or None.
        bounds: of the communities, in the same order.
        num_each: how many communities each of them stands for, which keep as many.
    """

    scores: Mapping[str, Tensor]
    ties: Mapping[str, Tensor | None]
    bounds: Sequence[Bounds]
    num_each: Sequence[int]

    @property
    def size(self) -> int:
        """How many populations take part."""
        return self.left([b.size for b in self.bounds])

    def left(self, kept: Sequence[int]) -> int:
        """Return how many populations are left where each community keeps a count."""
        return sum(num * count for num, count in zip(self.num_each, kept, strict=True))

    def left_by(self, gone: Tensor) -> list[int]:
        """Return the allowed counts that are nearest to what is left.

        Args:
            gone: the number of a community for each population that goes.
        """
        counts = torch.bincount(gone, minlength=len(self.bounds)).tolist()
        return [b.nearest(b.size - count) for b, count in zip(self.bounds, counts, strict=True)]


def contest_of(
    scores: Mapping[str, Tensor],
    ties: Mapping[str, Tensor | None],
    bounds: Mapping[str, Bounds],
    groups: Sequence[Sequence[str]],
    normalize: Normalization,
) -> Contest:
    """Return a contest in which one community stands for each group that keeps equal counts.

    Args:
        scores: ``[n]`` per community.
        ties: a second score per community, or None.
        bounds: by community.
        groups: names of communities.
        normalize: how scores become comparable across communities.
    """
    return Contest(
        {
            g[0]: tied_scores([scores[n] for n in g], [ties[n] for n in g], normalize)
            for g in groups
        },
        {g[0]: None for g in groups},
        [tied_bounds([bounds[n] for n in g]) for g in groups],
        [len(g) for g in groups],
    )


def survive(
    scores: Mapping[str, Tensor],
    ties: Mapping[str, Tensor | None],
    bounds: Mapping[str, Bounds],
    budget: Sparsity | CostBudget,
    communities: Communities | None,
    *,
    scope: Scope,
    normalize: Normalization,
    groups: Sequence[Sequence[str]] | None = None,
) -> dict[str, Tensor]:
    """Return who survives of the communities that meet a budget together.

    Args:
        scores: ``[n]`` per community.
        ties: a second score per community, or None.
        bounds: what may be left, by community.
        budget: what must be reached.
        communities: price and model, for budgets that need them.
        scope: the order in which populations go.
        normalize: how scores become comparable across communities.
        groups: names of communities that keep equal counts; each by itself if not given.

    Returns:
        One boolean tensor ``[n]`` per community.

    Raises:
        ValueError: if the budget cannot be met.
    """
    ranking = {name: order(score, ties[name]) for name, score in scores.items()}
    if groups is None:
        groups = [[name] for name in scores]
        contest = Contest(scores, ties, [bounds[name] for name in scores], [1] * len(scores))
    else:
        contest = contest_of(scores, ties, bounds, groups, normalize)
        normalize = None  # they are on one scale

    def masks(kept: Sequence[int]) -> dict[str, Tensor]:
        counts = {n: k for group, k in zip(groups, kept, strict=True) for n in group}
        return {n: _first(r, counts[n]) for n, r in ranking.items()}

    if isinstance(budget, Sparsity) and scope == "community":
        return masks(_each(contest, budget))
    if scope == "community":
        sequence = by_share(contest.bounds)
    else:
        sequence = by_score(contest.scores, contest.ties, contest.bounds, normalize)
    if isinstance(budget, Sparsity):
        return masks(_share(contest, budget, sequence))
    if communities is None:
        name = type(budget).__name__
        name = name if type(budget).__module__.partition(".")[0] != "natsel" else f"natsel.{name}"
        refuse("communities", None, f"the communities of a model: {name} is a cost of one")
    gauge = _gauge(budget, communities)

    def read(num: int) -> float:
        return gauge.read(masks(contest.left_by(sequence[:num])))

    return masks(contest.left_by(sequence[: _cheap_enough(contest, gauge, read, len(sequence))]))


def _gauge(budget: CostBudget, communities: Communities) -> Gauge:
    """Return how to read a budget off, made sure that it is that."""
    gauge = budget.gauge(communities)
    if not isinstance(gauge, Gauge):
        told = f"gauge() of type {type(gauge).__name__}"
        refuse("budget", told, f"that {type(budget).__name__} returns a natsel.selection.Gauge")
    return gauge


def _first(ranking: Tensor, count: int) -> Tensor:
    mask = torch.zeros(len(ranking), dtype=torch.bool)
    mask[ranking[:count]] = True
    return mask


def _each(contest: Contest, budget: Sparsity) -> list[int]:
    """Return how many each community keeps if it loses the share."""
    kept = []
    for name, bounds in zip(contest.scores, contest.bounds, strict=True):
        count = budget.count(bounds.size)
        if count > max(bounds.size - bounds.floor, 0):
            given = f"{count} of {bounds.size} in {name!r}"
            refuse("sparsity", given, f"a floor of {bounds.floor} kept")
        kept.append(bounds.at_most(bounds.size - count))
    return kept


def _share(contest: Contest, budget: Sparsity, sequence: Tensor) -> list[int]:
    """Return how many each community keeps if all together lose the share."""
    asked = budget.count(contest.size)

    def num_removed(num: int) -> int:
        return contest.size - contest.left(contest.left_by(sequence[:num]))

    num = first_that_meets(len(sequence), lambda num: num_removed(num) >= asked)
    if num is None:
        reachable = num_removed(len(sequence)) / contest.size
        refuse("sparsity", budget.value, f"at most {reachable:.4f} with {_limits(contest)}")
    return contest.left_by(sequence[:num])


def _limits(contest: Contest) -> str:
    """Return in words what keeps populations from going."""
    floors = sorted({b.floor for b in contest.bounds})
    multiple = max(b.multiple for b in contest.bounds)
    several = f"{floors[0]} to {floors[-1]}" if len(floors) > 1 else f"{floors[0]}"
    rounded = f", counts that are multiples of {multiple}" if multiple > 1 else ""
    return f"a floor of {several} in each of {sum(contest.num_each)} communities{rounded}"


def _cheap_enough(
    contest: Contest, gauge: Gauge, read: Callable[[int], float], num_removable: int
) -> int:
    """Return how many of a sequence have to go until a reading is within its limit."""
    readings: list[float] = []

    def meets(num: int) -> bool:
        readings.append(read(num))
        if math.isnan(readings[-1]):
            raise NonFiniteError(f"the reading of {gauge.name} is NaN")
        return readings[-1] <= gauge.limit

    found = first_that_meets(num_removable, meets, num_steps=gauge.num_steps)
    if found is None:
        least = gauge.describe(readings[-1])
        refuse(gauge.name, gauge.asked, f"at least {least} with {_limits(contest)}")
    return found
