"""Calibration samples that are held out in turn, and the ridge that they choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from natsel.common.calls import Inputs, tensors_of_inputs
from natsel.common.padding import DECODER_MASK, MASK
from natsel.extraction.pairs import Fit, Pairs, regress

NUM_FOLDS = 4
"""On eight windows of text four folds, two and a single split chose the same penalty or its
neighbour; four cost half a second to a second for 768 to 1,075 inputs.
"""
WIDE = 4_096
"""Where more columns than these are moved about, there are two folds: their moments take room."""
RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
"""Penalties to choose from, as shares of the mean variance of what is given.

On text 1e-1 to 1 was best, on 100 images of MNIST 1e-2, and 1e-3 on 500 of CIFAR-10 and a vision
transformer.
"""
FIRST = RIDGES.index(1e-1)


def num_folds(width: int) -> int:
    """Return in how many folds moments of a width are held."""
    return NUM_FOLDS if width <= WIDE else 2


class Samples:
    """To which sample of all of them each row belongs that enters a module.

    A fold holds whole samples (windows of a text, images): rows of one sample are alike, and one
    of them would be no proof for the others. Where all there is is one sample, it falls into
    stretches of its own; where rows cannot be told apart by sample, a fold holds whole batches.

    Args:
        inputs: what each batch gives to the model.

    Example:
        >>> samples = Samples([(torch.zeros(2, 5),), (torch.zeros(1, 5),)])
        >>> samples.folds(0, 4, 2).tolist(), samples.folds(1, 3, 2).tolist()
        ([0, 0, 1, 1], [0, 0, 0])
        >>> Samples([(torch.zeros(1, 5),)]).folds(0, 4, 2).tolist()
        [0, 0, 1, 1]
    """

    def __init__(self, inputs: Sequence[Inputs]) -> None:
        self._sizes = [_size(each) for each in inputs]
        self._masks = [_masks(each) for each in inputs]
        self._starts = [sum(self._sizes[:i]) for i in range(len(self._sizes))]
        self.total = sum(self._sizes)

    def folds(self, batch: int, rows: int, count: int) -> Tensor:
        """Return the fold of each row that enters a module with a batch, int64 ``[rows]``."""
        stretches = torch.arange(rows) * count // max(rows, 1)
        if self.total == 1:
            return stretches
        size = self._sizes[batch]
        lengths = next((m for m in self._masks[batch] if not rows % max(int(m.sum()), 1)), None)
        if lengths is not None and len(lengths) == size:
            own = torch.arange(size).repeat_interleave(lengths * (rows // int(lengths.sum())))
        elif rows % size == 0:
            own = torch.arange(size).repeat_interleave(rows // size)
        elif len(self._sizes) > 1:
            return torch.full((rows,), batch % count)
        else:
            return stretches
        return (self._starts[batch] + own) % count


def _size(inputs: Inputs) -> int:
    sizes = {len(x) if x.dim() else 1 for x in tensors_of_inputs(inputs) if isinstance(x, Tensor)}
    return max(sizes.pop(), 1) if len(sizes) == 1 else 1


def _masks(inputs: Inputs) -> list[Tensor]:
    """Return how many places of each sample are data, by each mask that says it."""
    found = [inputs.get(n) for n in (MASK, DECODER_MASK)] if isinstance(inputs, dict) else []
    return [
        m
        for x in found
        if isinstance(x, Tensor) and x.dim() == 2 and int((m := (x != 0).sum(1).cpu()).sum())
    ]


@dataclass(frozen=True)
class Held:
    """What held-out samples say of a ridge.

    Attributes:
        ridge: the penalty.
        before: E|y|^2.
        after: E|y - A x - c|^2 of samples that A and c were not found on.
    """

    ridge: float
    before: float
    after: float


def held_out(folds: Sequence[Pairs], *, constant: bool, ridge: float) -> Held | None:
    """Return the error of a regression over samples that it did not see, each fold in turn.

    Returns:
        The error; None where there are no two folds with rows.
    """
    there = [f for f in folds if f.count]
    if len(there) < 2:
        return None
    total, before, after = sum(f.count for f in there), 0.0, 0.0
    for number, fold in enumerate(there):
        rest = Pairs.merged([f for i, f in enumerate(there) if i != number])
        found = regress(rest, constant=constant, ridge=ridge, rank=False)
        before += fold.count / total * fold.lacking()
        after += fold.count / total * fold.error(found.weights, found.constant)
    return Held(ridge, before, after)


def chosen(held: Callable[[float], Held | None]) -> Held | None:
    """Return the ridge with the least held-out error, and that error.

    The error falls and rises once along the penalties, but for noise: from the middle one, they
    are taken in turn on the side where it falls, until it rises.

    Args:
        held: the error of a ridge.

    Returns:
        The best; None where nothing can be held out.
    """
    best = held(RIDGES[FIRST])
    if best is None:
        return None
    for step in (1, -1):
        place, start = FIRST + step, best
        while 0 <= place < len(RIDGES):
            tried = held(RIDGES[place])
            if tried is None or tried.after >= best.after:
                break
            best, place = tried, place + step
        if best is not start:
            break
    return best


class Folds:
    """What moments of some folds say of a fit.

    Args:
        folds: the moments.
        constant: whether the fit has one.
    """

    def __init__(self, folds: Sequence[Pairs], *, constant: bool) -> None:
        self._folds, self._constant = folds, constant
        self._whole = Pairs.merged(folds)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self._whole.count

    @property
    def finite(self) -> bool:
        """Whether neither NaN nor infinity came in."""
        return self._whole.finite

    def lacking(self) -> float:
        """Return E|y|^2."""
        return self._whole.lacking()

    def held_out(self, ridge: float) -> Held | None:
        """Return the error of a ridge over rows that it did not see, see :func:`held_out`."""
        return held_out(self._folds, constant=self._constant, ridge=ridge)

    def fit(self, ridge: float) -> tuple[Fit, float]:
        """Return the fit over all rows, with its effective rank, and its error over these rows."""
        found = regress(self._whole, constant=self._constant, ridge=ridge)
        return found, self._whole.error(found.weights, found.constant)
