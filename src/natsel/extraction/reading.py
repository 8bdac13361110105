"""How a consumer of the dense model reads, and what was seen of what the small one lacks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from natsel.communities.surgery.surgery import cut
from natsel.communities.tensors import tensors_of
from natsel.extraction.consumers import Consumer
from natsel.extraction.folds import num_folds
from natsel.extraction.moments import Moments
from natsel.extraction.pairs import Pairs
from natsel.extraction.rows import Gathering


class Reading:
    """What a dense consumer makes of its inputs h: y = P h, with |y| = |W h| for every h.

    P is its weight W as rows, or the R of W = Q R where W has more rows than columns (a kernel has
    one for each of its taps): the fewest numbers a row that say all of what the small one lacks.

    Args:
        model: the dense model.
        consumer: of it.
        short: whether P may be R; else it is W, so that what is lacking may be anything.
    """

    def __init__(self, model: nn.Module, consumer: Consumer, *, short: bool = True) -> None:
        weight = tensors_of(model)[consumer.tensor].detach()
        home = "cpu" if weight.device.type == "mps" else weight.device
        last = cut(weight, consumer.others).to(home).double().movedim(consumer.axis, -1)
        self.shape = last.shape[:-1]
        rows = last.reshape(-1, last.shape[-1])
        self._q: Tensor | None = None
        if short and len(rows) > rows.shape[1]:
            self._q, rows = torch.linalg.qr(rows)
        self.rows = rows
        self.kept = consumer.kept.to(rows.device)
        self.removed = consumer.removed.to(rows.device)
        self._cast: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def dense(self, h: Tensor) -> Tensor:
        """Return P h of rows h that enter the dense consumer, in float32 at least."""
        h = as_float(h)
        return h @ self._in(h)[0].T

    def small(self, k: Tensor) -> Tensor:
        """Return P k of rows k that enter the small one, 0 for what is removed."""
        k = as_float(k)
        return k @ self._in(k)[1].T

    def whole(self, found: Tensor) -> Tensor:
        """Return what is found for y ``[m, ...]`` for the weight: the places of its kernel last."""
        full = found if self._q is None else self._q.to(found.device) @ found
        return full.reshape(*self.shape, *found.shape[1:])

    def _in(self, x: Tensor) -> tuple[Tensor, Tensor]:
        key = (x.dtype, x.device)
        if key not in self._cast:
            rows = self.rows.to(dtype=x.dtype, device=x.device)
            self._cast[key] = rows, rows[:, self.kept.to(x.device)]
        return self._cast[key]


@dataclass(eq=False)
class Seen:
    """What is given to a small consumer beside what it lacks.

    Attributes:
        reading: how the dense consumer reads.
        gathered: the rows, or moments of them, fold by fold.
        square: E|y|^2 times the rows, of the dense output y.
    """

    reading: Reading
    gathered: Gathering
    square: float = 0.0

    @classmethod
    def nothing(cls, reading: Reading) -> Seen:
        """Return what is there before the first row."""
        columns = len(reading.kept)
        return cls(reading, Gathering(columns, num_folds(columns + len(reading.rows))))

    @property
    def num_folds(self) -> int:
        """In how many folds the rows are."""
        return self.gathered.num_folds

    def add(self, k: Tensor, y: Tensor, folds: Tensor) -> None:
        """Take what entered the small consumer, beside P h of the same rows in the dense one."""
        k = as_float(k).to(y.dtype)
        self.square += square(y)
        self.lacks(k, y - self.reading.small(k), folds)

    def lacks(self, k: Tensor, missing: Tensor, folds: Tensor) -> None:
        """Take what entered the small consumer, beside what its output lacks of the same rows."""
        self.gathered.add(as_float(k).to(missing.dtype), missing, folds)

    @classmethod
    def alone(cls, reading: Reading, parts: list[Moments]) -> Seen:
        """Of the dense model alone: what is missing is what the removed inputs h give to y."""
        folds, total = [], 0.0
        gone = reading.rows[:, reading.removed]
        for moments in parts:
            pairs = Pairs()
            if moments.count:
                scatter, mean = moments.scatter, moments.mean
                kept, removed, gone = (
                    x.to(mean.device) for x in (reading.kept, reading.removed, gone)
                )
                pairs.count = moments.count
                pairs.mean_x, pairs.mean_y = mean[kept], gone @ mean[removed]
                pairs.xx = scatter[kept][:, kept]
                pairs.xy = scatter[kept][:, removed] @ gone.T
                pairs.yy = float(((gone @ scatter[removed][:, removed]) * gone).sum())
                rows = reading.rows.to(mean.device)
                about_zero = moments.count * moments.second(about_mean=False)
                total += float(((rows @ about_zero) * rows).sum())
            folds.append(pairs)
        return cls(reading, Gathering.of(folds), total)

    @property
    def rows(self) -> int:
        """How many rows were seen."""
        return self.gathered.count


def square(x: Tensor) -> float:
    """Return the sum of squares, in float64 where there is such."""
    return float(x.double().square().sum() if x.device.type != "mps" else x.square().sum())


def as_float(x: Tensor) -> Tensor:
    """Return a tensor in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()
