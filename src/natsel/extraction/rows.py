"""Few rows: a ridge regression between them, which no matrix over the columns is needed for.

Of N rows x ``[N, n]`` with N <= n all that a penalised fit makes is a combination of these rows:
with K = X X^T, about the mean where there is a constant,

    A = Y^T (K + N r I)^-1 X,  which is  Y^T X (X^T X + N r I)^-1,

so that N^3 + N^2 n operations do what took n^3 + n^2 m. K is made once, in float64; each fold that
is held out and each penalty reads parts of it. There are as many rows as what is left of them,
with a fold held out, is no more than the columns; all of them may be more, and are fitted between
columns then.

What only chooses a penalty is solved in float32 where it is large, and checked in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from natsel.extraction.folds import Folds, Held
from natsel.extraction.pairs import Fit, Pairs, regress

AT_ONCE = 1024
"""Rows or columns of x that are held in float64 at a time."""
LARGE = 1024
"""Rows from which on float32 saves time."""
CLOSE = 1e-4
"""How far off, as a share of what is to be solved for, a solution in float32 may be."""


Solve = Callable[[Tensor, Tensor], Tensor]


class Rows:
    """Rows x beside rows y, each of a fold.

    Args:
        x: ``[N, n]``.
        y: ``[N, m]``.
        folds: of each row, int64 ``[N]``.
        constant: whether the fit has one.

    Example:
        >>> rows = Rows(torch.eye(2, 4), torch.ones(2, 1), torch.tensor([0, 1]), constant=False)
        >>> found, error = rows.fit(1.0)
        >>> [round(float(w), 4) for w in found.weights[0]], round(error, 4)
        ([0.6667, 0.6667, 0.0, 0.0], 0.1111)
    """

    def __init__(self, x: Tensor, y: Tensor, folds: Tensor, *, constant: bool) -> None:
        # No float64 on Apple's accelerators.
        home = torch.device("cpu") if x.device.type == "mps" else x.device
        x, self._folds, self._constant = x.to(home), folds.to(home), constant
        # Products of large means would cancel; what rounding leaves of the mean is seen to later.
        self._centre = x.mean(0) if constant else None
        self._x = x if self._centre is None else x - self._centre
        self._y = y.to(home)
        self._gram: Tensor | None = None

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self._x)

    @property
    def finite(self) -> bool:
        """Whether neither NaN nor infinity is among them."""
        return bool(torch.isfinite(self._x).all()) and bool(torch.isfinite(self._y).all())

    def lacking(self) -> float:
        """Return E|y|^2."""
        return _square(self._y) / max(self.count, 1)

    def held_out(self, ridge: float) -> Held | None:
        """Return the error of a ridge over rows that it did not see; see :class:`Folds`."""
        there = torch.unique(self._folds).tolist()
        if len(there) < 2:
            return None
        after = 0.0
        for fold in there:
            here, rest = (where.nonzero()[:, 0] for where in _apart(self._folds, fold))
            found = self._between(rest, ridge, solve=_quickly)
            mine = self._products(here, rest)
            if self._constant:
                # About the mean of the rest; the coefficients add up to 0 already.
                mine -= self._products(rest, rest).mean(0)
            missed = self._y[here].to(found.coefficients)
            missed.addmm_(mine.to(found.coefficients), found.coefficients, alpha=-1)
            if self._constant:
                missed -= self._y[rest].mean(0, dtype=torch.float64).to(missed)
            after += _square(missed)
        return Held(ridge, self.lacking(), after / self.count)

    def fit(self, ridge: float) -> tuple[Fit, float]:
        """Return the fit over all rows, with its effective rank, and its error over these rows."""
        if self.count > self._x.shape[1]:
            return self._fit_columns(ridge)
        everyone = torch.arange(self.count, device=self._x.device)
        found = self._between(everyone, ridge, rank=True)
        weights = self._combined(found.coefficients)
        constant = None
        if self._constant:
            assert self._centre is not None
            mean = self._centre.double() + self._x.mean(0, dtype=torch.float64)
            constant = self._y.mean(0, dtype=torch.float64) - weights @ mean
        # y - A x - c = N r alpha, and y itself where nothing is penalised, for then A is 0.
        missed = found.coefficients * (self.count * found.penalty)
        if not found.penalty > 0:
            missed = self._y.double()
            missed = missed - missed.mean(0) if self._constant else missed
        return Fit(weights, constant, found.rank), _square(missed) / self.count

    def _fit_columns(self, ridge: float) -> tuple[Fit, float]:
        """The same of more rows than columns."""
        self._gram = None
        pairs = Pairs()
        pairs.add(self._x, self._y)
        found = regress(pairs, constant=self._constant, ridge=ridge)
        error = pairs.error(found.weights, found.constant)
        if found.constant is not None and self._centre is not None:
            moved = found.constant - found.weights @ self._centre.double()
            found = replace(found, constant=moved)
        return found, error

    def _products(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return some of K, which is made once: one triangle of it, and the other by symmetry."""
        if self._gram is None:
            self._gram = self._x.new_zeros(self.count, self.count, dtype=torch.float64)
            for start in range(0, self.count, AT_ONCE):
                these = slice(start, start + AT_ONCE)
                for part in torch.split(self._x, AT_ONCE, 1):
                    wide = part[start:].double()
                    self._gram[these, start:].addmm_(wide[:AT_ONCE], wide.T)
                below = slice(these.stop, None)
                self._gram[below, these] = self._gram[these, below].T.clone()
        return self._gram[rows][:, columns]

    def _between(
        self, rows: Tensor, ridge: float, *, rank: bool = False, solve: Solve | None = None
    ) -> _Solved:
        """Solve between some rows; in float64 if it is not told how."""
        inner, y = self._products(rows, rows), self._y[rows].double()
        if self._constant:
            means = inner.mean(0)
            inner -= means
            inner -= (means - means.mean())[:, None]
            y = y - y.mean(0)
        count = len(rows)
        penalty = ridge * float(inner.diagonal().sum()) / (count * self._x.shape[1])
        if not penalty > 0:
            return _Solved(torch.zeros_like(y), 0.0, 0.0)
        inner.diagonal().add_(count * penalty)
        if solve is not None:
            return _Solved(solve(inner, y), penalty, float("nan"))
        factor = torch.linalg.cholesky(inner)
        used = float("nan")
        if rank:
            inverse = torch.cholesky_inverse(factor)
            used = count - count * penalty * float(inverse.diagonal().sum())
        return _Solved(torch.cholesky_solve(y, factor), penalty, used)

    def _combined(self, coefficients: Tensor) -> Tensor:
        """Return the rows x combined, ``[m, n]`` in float64."""
        parts = [coefficients.T @ part.double() for part in torch.split(self._x, AT_ONCE, 1)]
        return torch.cat(parts, 1)


@dataclass(frozen=True, eq=False)
class _Solved:
    """Coefficients of rows, ``[N, m]``, the penalty, and the effective rank."""

    coefficients: Tensor
    penalty: float
    rank: float


def _quickly(inner: Tensor, y: Tensor) -> Tensor:
    """Solve a large system in float32, if float64 finds it close enough; else in float64.

    What is checked are some random combinations of the right-hand sides.
    """
    if len(inner) >= LARGE:
        factor, failed = torch.linalg.cholesky_ex(inner.float())
        if not int(failed):
            found = torch.cholesky_solve(y.float(), factor)
            probes = torch.randn(y.shape[1], 8, generator=torch.Generator().manual_seed(0))
            wanted = y @ probes.to(y)
            left = inner @ (found @ probes.to(found)).double() - wanted
            if float(left.norm()) <= CLOSE * float(wanted.norm()):
                return found
    return torch.cholesky_solve(y, torch.linalg.cholesky(inner))


def _square(x: Tensor) -> float:
    """Return the sum of squares, added up in float64."""
    return float(x.square().sum(1, dtype=torch.float64).sum())


def _apart(folds: Tensor, fold: int) -> tuple[Tensor, Tensor]:
    return folds == fold, folds != fold


class Gathering:
    """Rows that come batch by batch: held while they are few, moments of them from there on.

    They are few while all of them but a fold are no more than the columns: then they take less
    room than their second moments, and less time.

    Args:
        columns: of x.
        folds: how many there are.

    Example:
        >>> few, many = Gathering(4, 2), Gathering(1, 2)
        >>> for each in (few, many):
        ...     each.add(torch.ones(4, each.columns), torch.ones(4, 3), torch.arange(4) % 2)
        >>> [type(each.evidence(constant=False)).__name__ for each in (few, many)]
        ['Rows', 'Folds']
    """

    def __init__(self, columns: int, folds: int) -> None:
        self.columns, self.num_folds = columns, folds
        self._moments: list[Pairs] | None = None
        self._held: list[tuple[Tensor, Tensor, Tensor]] = []

    @classmethod
    def of(cls, moments: list[Pairs]) -> Gathering:
        """Return what is gathered of rows that are gone, from their moments fold by fold."""
        found = cls(0, len(moments))
        found._moments = moments
        return found

    def add(self, x: Tensor, y: Tensor, folds: Tensor) -> None:
        """Take rows ``[N, n]`` and ``[N, m]`` in, each of a fold."""
        self._held.append((x, y, folds.to(x.device)))
        few = self.count * (self.num_folds - 1) <= self.columns * self.num_folds
        if self._moments is None and few:
            return
        if self._moments is None:
            self._moments = [Pairs() for _ in range(self.num_folds)]
        for held in self._held:
            _spread(self._moments, *held)
        self._held.clear()

    def evidence(self, *, constant: bool) -> Folds | Rows:
        """Return what they say of a fit, with a constant or without."""
        if self._held:
            x, y, folds = (torch.cat(parts) for parts in zip(*self._held, strict=True))
            return Rows(x, y, folds, constant=constant)
        return Folds(self._moments or [], constant=constant)

    @property
    def count(self) -> int:
        """How many rows came in."""
        return sum(m.count for m in self._moments or ()) + sum(len(x) for x, _, _ in self._held)


def _spread(moments: Sequence[Pairs], x: Tensor, y: Tensor, folds: Tensor) -> None:
    """Add rows to the moments of their folds."""
    for number, each in enumerate(moments):
        here = folds == number
        if bool(here.all()):
            each.add(x, y)
        else:
            each.add(x[here], y[here])
