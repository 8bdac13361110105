r"""What removing populations does to their consumers once these take over what they can.

A consumer computes $W h$. Without the set R, its weights refitted by least squares, what it lacks
is $\mathrm{tr}\, W_R (H^{-1}_{RR})^{-1} W_R^T$ with $H = E[h h^T]$: nothing for a population that
the others can say. Populations go one by one, each time the one that costs least, and after each
the others have taken over: the optimal brain surgeon (Hassibi and Stork 1993) for whole columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.fitness.joint import descending
from natsel.fitness.registry import Fitness, Part, Parts, register

DAMPING = 1e-2
"""Added to the diagonal of H, as a share of its mean: what is never seen is not worth nothing.

On the neurons of a language model 1e-2 and 1e-1 are alike, and 1 is worse.
"""
PENDING = 32
"""Removals that are applied to the whole inverse together."""


class Surgeon:
    """One consumer while its populations are removed one by one.

    Holds W, refitted, and the inverse of H over what is left. Removing i moves them by
    W_i u^T / u_i and u u^T / u_i, u the column i of the inverse. Of these only what the next
    removals read is computed at once; the rest waits until some have come together.

    Args:
        columns: W^T, ``[n, m]``, float64.
        second: H, ``[n, n]``, float64.
    """

    def __init__(self, columns: Tensor, second: Tensor) -> None:
        n = len(second)
        damping = DAMPING * float(second.diagonal().mean())
        damped = second + damping * torch.eye(n).to(second)
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        self._columns = columns.clone()
        self._diagonal = self._inverse.diagonal().clone()
        self._norms = columns.square().sum(1)
        self._gone: list[Tensor] = []
        self._moved: list[Tensor] = []

    def costs(self) -> Tensor:
        """Return what removing each would cost now: |w_i|^2 / [H^-1]_ii, ``[n]``."""
        return self._norms / self._diagonal

    def remove(self, i: int) -> None:
        """Remove one: the others take over."""
        column, weights = self._inverse[:, i].clone(), self._columns[i].clone()
        if self._gone:
            gone, moved = torch.stack(self._gone, 1), torch.stack(self._moved)
            column -= gone @ gone[i]
            weights -= gone[i] @ moved
        root = column[i].clamp_min(torch.finfo(column.dtype).tiny).sqrt()
        u, w = column / root, weights / root
        # w_j becomes w_j - u_j w; |w_j|^2 follows, as the diagonal does.
        meets = self._columns @ w
        if self._gone:
            meets -= gone @ (moved @ w)
        self._norms = (self._norms - 2 * u * meets + u.square() * w.square().sum()).clamp_min_(0)
        self._diagonal = self._diagonal - u.square()
        self._norms[i], self._diagonal[i] = torch.inf, 1.0
        self._gone.append(u)
        self._moved.append(w)
        if len(self._gone) == PENDING:
            self._apply()

    def _apply(self) -> None:
        gone, moved = torch.stack(self._gone, 1), torch.stack(self._moved)
        self._inverse -= gone @ gone.T
        self._columns -= gone @ moved
        self._gone, self._moved = [], []


class GroupSurgeon:
    """The same for populations of several columns: the slices of heads.

    Args:
        columns: W^T, ``[n, m]``, float64.
        second: H, ``[n, n]``, float64.
        index: the columns of each population, ``[size, width]``.
    """

    def __init__(self, columns: Tensor, second: Tensor, index: Tensor) -> None:
        damping = DAMPING * float(second.diagonal().mean())
        damped = second + damping * torch.eye(len(second)).to(second)
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        self._columns = columns.clone()
        self._index = index
        self._left = set(range(len(index)))

    def costs(self) -> Tensor:
        """Return what removing each would cost now: tr W_B [H^-1]_BB^-1 W_B^T, ``[size]``."""
        costs = self._columns.new_full((len(self._index),), torch.inf)
        for i in self._left:
            at = self._index[i]
            weights = self._columns[at]
            inner = torch.linalg.cholesky(self._inverse[at][:, at])
            costs[i] = (weights * torch.cholesky_solve(weights, inner)).sum()
        return costs

    def remove(self, i: int) -> None:
        """Remove one: the others take over."""
        at = self._index[i]
        across = self._inverse[:, at]
        inner = torch.linalg.cholesky(across[at])
        self._columns -= across @ torch.cholesky_solve(self._columns[at], inner)
        self._inverse -= across @ torch.cholesky_solve(across.T, inner)
        self._left.remove(i)


def surgeon(part: Part, mass: Tensor) -> Surgeon | GroupSurgeon | None:
    """Return the surgeon of one consumer; None where nothing was seen to enter it.

    Of a convolution, each tap of the kernel takes over for itself.
    """
    assert part.activation is not None
    columns = part.weight.movedim(part.axis, 0).flatten(1).double()
    second = part.activation.double()
    if second.dim() != 2 or not bool(second.diagonal().sum() > 0):
        return None
    scale = second.new_ones(len(columns))
    scale[part.index.reshape(-1)] = mass.double().repeat_interleave(part.index.shape[1])
    columns = columns * scale[:, None]
    if part.whole:
        return Surgeon(columns, second)
    return GroupSurgeon(columns, second, part.index)


def obs(parts: Parts) -> Tensor:
    """Return what the consumers lack by each population, the others refitted: ``[size]``.

    Populations are removed in the order of their cost after all those before them. The score is
    the root of the largest cost up to each: its order is the order of elimination.
    """
    found = [s for part in parts.consumers if (s := surgeon(part, parts.mass)) is not None]
    n = len(parts.mass)
    if not found:
        return torch.zeros(n, dtype=torch.float64, device=parts.mass.device)
    order, costs = [], []
    for _ in range(n):
        each = torch.stack([s.costs() for s in found]).sum(0)
        i = int(each.argmin())
        order.append(i)
        costs.append(each[i])
        for s in found:
            s.remove(i)
    return descending(torch.tensor(order, device=costs[0].device), torch.stack(costs))


register(Fitness("obs", obs, statistic="products"))
