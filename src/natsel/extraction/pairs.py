"""Streamed second moments of what a consumer is given beside what it lacks, and their ridge fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Pairs:
    """Moments of rows x beside rows y that come batch by batch, in float64.

    Of y only its mean, its products with x and its mean square are held: nothing of the size of
    its square. Batches are centred before they are multiplied, and merged (Chan, Golub and LeVeque
    1983): sums of squares would cancel where the mean is large.

    Example:
        >>> pairs = Pairs()
        >>> for x, y in ([[0.], [1.]], [[1.], [3.]]), ([[2.]], [[5.]]):
        ...     pairs.add(torch.tensor(x), torch.tensor(y))
        >>> pairs.count, pairs.mean_x.tolist(), round(float(pairs.xy) / 3, 4)
        (3, [1.0], 1.3333)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean_x = self.mean_y = self.xx = self.xy = torch.empty(0)
        self.yy = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take rows ``[N, n]`` and ``[N, m]`` in; products are in float32 at least."""
        if not len(x):
            return
        (x, mean_x, rest_x), (y, mean_y, rest_y) = _centred(x), _centred(y)
        home, n = mean_x.device, len(x)
        xx = (x.T @ x).to(home).double().addr_(rest_x, rest_x, alpha=-n)
        xy = (x.T @ y).to(home).double().addr_(rest_x, rest_y, alpha=-n)
        yy = float(y.square().sum(0).to(home).double().sum() - n * rest_y.square().sum())
        self._merge(n, mean_x, mean_y, xx, xy, yy)

    def _merge(
        self, count: int, mean_x: Tensor, mean_y: Tensor, xx: Tensor, xy: Tensor, yy: float
    ) -> None:
        if not self.count:
            self.count, self.mean_x, self.mean_y = count, mean_x.clone(), mean_y.clone()
            self.xx, self.xy, self.yy = xx.clone(), xy.clone(), yy
            return
        total = self.count + count
        share = self.count * count / total
        step_x, step_y = mean_x - self.mean_x, mean_y - self.mean_y
        self.xx.add_(xx).addr_(step_x, step_x, alpha=share)
        self.xy.add_(xy).addr_(step_x, step_y, alpha=share)
        self.yy += yy + share * float(step_y.square().sum())
        self.mean_x += step_x * (count / total)
        self.mean_y += step_y * (count / total)
        self.count = total

    @classmethod
    def merged(cls, parts: Sequence[Pairs]) -> Pairs:
        """Return the moments of all rows of some parts."""
        found = cls()
        for p in parts:
            if p.count:
                found._merge(p.count, p.mean_x, p.mean_y, p.xx, p.xy, p.yy)
        return found

    @property
    def finite(self) -> bool:
        """Whether neither NaN nor infinity came in."""
        parts = (self.xx, self.xy, self.mean_y, torch.tensor(self.yy))
        return all(bool(torch.isfinite(p).all()) for p in parts)

    def lacking(self) -> float:
        """Return E|y|^2."""
        return self.yy / max(self.count, 1) + float(self.mean_y.square().sum())

    def error(self, weights: Tensor, constant: Tensor | None) -> float:
        """Return E|y - A x - c|^2 of some weights ``[m, n]`` and a constant ``[m]``.

        Example:
            >>> pairs = Pairs()
            >>> pairs.add(torch.tensor([[1.], [2.]]), torch.tensor([[3.], [5.]]))
            >>> pairs.error(torch.tensor([[2.]]).double(), None)
            1.0
        """
        spread = self.yy + float(((weights @ self.xx - 2 * self.xy.T) * weights).sum())
        rest = self.mean_y - weights @ self.mean_x
        rest = rest if constant is None else rest - constant
        return max(spread / max(self.count, 1) + float(rest.square().sum()), 0.0)


def _centred(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows about their mean, the mean, and what rounding it left in the rows."""
    rows = rows if rows.dtype == torch.float64 else rows.float()
    # No float64 on Apple's accelerators.
    home = torch.device("cpu") if rows.device.type == "mps" else rows.device
    centre = rows.mean(0)
    centred = rows - centre
    rest = centred.mean(0).to(home).double()
    return centred, centre.to(home).double() + rest, rest


@dataclass(frozen=True, eq=False)
class Fit:
    """What x says of y: y = weights @ x + constant + residual.

    Attributes:
        weights: ``[m, n]``.
        constant: ``[m]``; None if there is none.
        effective_rank: how many directions of x the penalty leaves in use; NaN if nobody asked.
    """

    weights: Tensor
    constant: Tensor | None
    effective_rank: float = float("nan")


def regress(pairs: Pairs, *, constant: bool, ridge: float, rank: bool = True) -> Fit:
    """Regress y on x, from their moments alone.

    Minimises E|y - A x - c|^2 + r |A|^2 with r = ``ridge`` times the mean variance of x: with
    moments about the mean (about 0 without a constant), A = C_yx (C_xx + r I)^-1 and
    c = E y - A E x. The effective rank is tr C_xx (C_xx + r I)^-1.

    Over the rows that the moments are of, E|y - A x - c|^2 is at most E|y|^2: A = 0 is among what
    A was chosen from. Over others that is no proof.

    Args:
        pairs: moments of both.
        constant: whether there is a c.
        ridge: the penalty.
        rank: whether to find the effective rank.

    Example:
        >>> pairs = Pairs()
        >>> pairs.add(torch.tensor([[0.], [1.], [2.]]), torch.tensor([[1.], [3.], [5.]]))
        >>> found = regress(pairs, constant=True, ridge=1e-9)
        >>> round(float(found.weights), 6), round(float(found.constant), 6)
        (2.0, 1.0)

    Reference:
        Hoerl and Kennard, "Ridge regression", Technometrics 12 (1970).
    """
    inner, cross = pairs.xx / pairs.count, pairs.xy / pairs.count
    if not constant:
        inner.addr_(pairs.mean_x, pairs.mean_x)
        cross.addr_(pairs.mean_x, pairs.mean_y)
    penalty = ridge * float(inner.diagonal().mean())
    if penalty > 0:
        inner.diagonal().add_(penalty)
        factor = torch.linalg.cholesky(inner)
        weights = torch.cholesky_solve(cross, factor).T
        used = float("nan")
        if rank:
            used = len(inner) - penalty * float(torch.cholesky_inverse(factor).diagonal().sum())
    else:
        weights, used = torch.zeros_like(cross.T), 0.0
    return Fit(weights, pairs.mean_y - weights @ pairs.mean_x if constant else None, used)
