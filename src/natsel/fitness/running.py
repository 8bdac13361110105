"""Statistics of what enters a module, taken in batch by batch.

A batch is read in pieces, each in the activation's precision, float32 at least; pieces are merged
in float64. Means and variances are merged (Chan, Golub and LeVeque 1983), not sums of squares:
those cancel where the mean is large.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from natsel.common.hooks import as_rows
from natsel.common.padding import without_padding
from natsel.communities.gates.observers import Observer

Made = TypeVar("Made")

PIECE = 2**18
"""Elements that a processor reads at a time: what it makes of them stays in its cache."""

WAITING = 32
"""Pieces whose moments are merged at once: merging each alone costs as much as taking it."""

LARGE_PLANE = 16
"""Places of an image from which on it pays to take planes one by one."""

SOUND = 0.05
"""A variance that is at least this share of the mean square lost one digit or so to rounding."""


class Moments(NamedTuple):
    """What some samples say of each place.

    Attributes:
        count: how many samples.
        mean: over them, ``[n]``.
        variance: over them, ``[n]``.
    """

    count: int  # type: ignore[assignment]
    mean: Tensor
    variance: Tensor


class Running(Observer):
    """A hook that keeps the mean square or the variance of what enters a module.

    It holds numbers per place and nothing that has the size of a batch. A deep copy of the model
    and of the hook together gives hooks of their own, which a closure would not.

    Args:
        axis: of the input, from the end, along which the places lie.
        statistic: "variance" or "square" (the mean square).
        training: look only at forward passes that record gradients.

    Example:
        >>> running = Running(-1, "variance")
        >>> for rows in ([[0., 5.], [2., 5.]], [[4., 5.]]):
        ...     running(nn.Identity(), (torch.tensor(rows),))
        >>> running.value()
        tensor([2.6667, 0.0000])
    """

    def __init__(self, axis: int, statistic: str, training: bool = False) -> None:
        self.axis = axis
        self.statistic = statistic
        self.training = training
        self.seen = False
        self._parts: list[Moments] = []

    def reset(self) -> None:
        """Forget what was seen."""
        self.seen = False
        self._parts = []

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Take one batch in."""
        x = inputs[0]
        grad = torch.is_grad_enabled()
        if not x.numel() or (self.training and not grad):
            return
        x = without_padding(module, x, self.axis)
        if not x.numel():
            return
        self.seen = True
        with torch.no_grad() if grad else nullcontext():
            self._take(x)

    def value(self) -> Tensor:
        """Return the statistic of all batches since the last reset, in their precision."""
        return self.of(self.total()).to(self.precision)

    @property
    def precision(self) -> torch.dtype:
        """Of what was taken in last."""
        return self._parts[-1].mean.dtype

    def total(self) -> Moments:
        """Return the moments of all batches since the last reset, in float64."""
        return merged(self._parts)

    def of(self, total: Moments) -> Tensor:
        """Return the statistic that moments come to."""
        spread = total.variance
        if self.statistic == "square":
            spread = spread + total.mean.square()
        return spread

    def _take(self, x: Tensor) -> None:
        about_zero = self.statistic == "square"
        for piece in wide_pieces(x, self.axis):
            self._parts.append(moments(piece, self.axis, about_zero=about_zero))
            if len(self._parts) > WAITING:
                self._parts = [merged(self._parts[:-1]), self._parts[-1]]


class Last:
    """What was last made of a tensor: modules that read the very same one make it once.

    Example:
        >>> last, x = Last(), torch.ones(2)
        >>> last.get(x, -1, lambda: "made"), last.get(x, -1, lambda: "made again")
        ('made', 'made')
        >>> last.get(x.add_(1), -1, lambda: "of what it is now")
        'of what it is now'
    """

    def __init__(self) -> None:
        self._of: Callable[[], Tensor | None] = lambda: None
        self._which: tuple[int, int] = (0, 0)
        self._made: Any = None

    def get(self, x: Tensor, axis: int, make: Callable[[], Made]) -> Made:
        """Return what was made of this very tensor, unless it was written to; else make it.

        Args:
            x: that it is made of.
            axis: of the tensor, along which.
            make: makes it.
        """
        which = (axis, 0 if x.is_inference() else x._version)
        if self._of() is not x or self._which != which:
            self._made = make()
            self._of, self._which = weakref.ref(x), which
        made: Made = self._made
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Last:
        """Return one that has seen nothing: the copy of a model reads other tensors."""
        memo[id(self)] = fresh = Last()
        return fresh


class Products(Running):
    """A hook that keeps the mean products of all pairs of places, a matrix.

    Args:
        axis: of the input, from the end, along which the places lie.
        training: look only at forward passes that record gradients.
        last: shared with the hooks of other modules that may read the same tensor.

    Example:
        >>> products = Products(-1)
        >>> products(nn.Identity(), (torch.tensor([[1., 2.], [3., 0.]]),))
        >>> products.value()
        tensor([[5., 1.],
                [1., 2.]])
    """

    def __init__(self, axis: int, training: bool = False, last: Last | None = None) -> None:
        super().__init__(axis, "products", training)
        self._last = Last() if last is None else last
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        super().reset()
        self._count = 0
        self._sum: Tensor | float = 0.0

    def value(self) -> Tensor:
        """Return the matrix of all batches since the last reset, in their precision."""
        count, sums = self.sums()
        return (sums / count).to(self.precision)

    @property
    def precision(self) -> torch.dtype:
        """Of what was taken in last."""
        return self._precision

    def sums(self) -> tuple[int, Tensor]:
        """Return how many samples there were, and the sums of their products, in float64."""
        assert isinstance(self._sum, Tensor)
        return self._count, self._sum

    def _take(self, x: Tensor) -> None:
        self._precision, products = self._last.get(x, self.axis, lambda: self._made_of(x))
        self._count += x.numel() // x.shape[self.axis]
        self._sum = products.clone() if isinstance(self._sum, float) else self._sum.add_(products)

    def _made_of(self, x: Tensor) -> tuple[torch.dtype, Tensor]:
        products: Tensor | float = 0.0
        for piece in wide_pieces(x, self.axis):
            rows = as_rows(piece, self.axis)
            products = products + in_double(rows.T @ rows)
        assert isinstance(products, Tensor)
        return rows.dtype, products


def wide_pieces(x: Tensor, axis: int) -> Iterator[Tensor]:
    """Yield the pieces of a tensor in its precision, float32 at least."""
    for piece in pieces(x, axis):
        is_wide = piece.dtype in (torch.float32, torch.float64)
        yield piece if is_wide else piece.float()


def pieces(x: Tensor, axis: int) -> Sequence[Tensor]:
    """Return a tensor in pieces of some rows each, without a copy; on an accelerator, whole.

    Args:
        x: with at least one element.
        axis: from the end; it stays whole, and is the last of two where it is the last.

    Returns:
        Views of the tensor.

    Example:
        >>> [tuple(piece.shape) for piece in pieces(torch.zeros(2, 300, 512), -1)]
        [(512, 512), (88, 512)]
    """
    if axis == -1 and x.dim() != 2 and x.is_contiguous():
        x = x.view(-1, x.shape[-1])
    if not x.is_cpu or x.numel() <= PIECE or axis == -x.dim():
        return (x,)
    return torch.split(x, max(1, PIECE * len(x) // x.numel()))


def moments(x: Tensor, axis: int, *, about_zero: bool = False) -> Moments:
    """Return mean and variance over all other axes.

    Args:
        x: float32 or float64.
        axis: from the end.
        about_zero: only ``mean ** 2 + variance``, the mean square, is needed, in whatever parts.

    Returns:
        The moments of each place along the axis.

    Example:
        >>> moments(torch.tensor([[0., 5.], [2., 5.]]), -1)
        Moments(count=2, mean=tensor([1., 5.]), variance=tensor([1., 0.]))
    """
    count = x.numel() // x.shape[axis]
    if x.is_cpu and x.dim() == 2 and axis == -1 and x.is_contiguous():
        # What a batch normalisation takes of a table is read in one go, with nothing made of the
        # table's size; torch.var_mean over rows takes up to forty times as long.
        return Moments(count, *torch.batch_norm_update_stats(x, None, None, 0.0))
    planes = _of_planes(x, axis, about_zero=about_zero)
    if planes is not None:
        return planes
    others = [i for i in range(x.dim()) if i != x.dim() + axis]
    if about_zero:
        return Moments(count, x.new_zeros(x.shape[axis]), x.square().mean(others))
    if not x.is_cpu:
        variance, mean = torch.var_mean(x, others, correction=0)
        return Moments(count, mean, variance)
    mean = x.mean(others, keepdim=True)
    return Moments(count, mean.reshape(-1), (x - mean).square_().mean(others))


def _of_planes(x: Tensor, axis: int, *, about_zero: bool) -> Moments | None:
    """Return the moments of images whose planes lie in memory one after the other.

    Norms and sums of planes make nothing of the images' size. The variance is the mean square less
    the squared mean, which rounding leaves nothing of where the mean is large: then it is None.
    """
    places = x.shape[axis + 1 :].numel() if axis < -1 else 0
    if places < LARGE_PLANE or not x.is_cpu or not x.is_contiguous():
        return None
    count, size = x.numel() // x.shape[axis], x.shape[axis]
    planes = x.view(-1, places)
    norms = torch.linalg.vector_norm(planes, dim=1)
    square = norms.square_().view(-1, size).sum(0) / count
    if about_zero:
        return Moments(count, x.new_zeros(size), square)
    mean = planes.sum(1).view(-1, size).sum(0) / count
    variance = torch.addcmul(square, mean, mean, value=-1)
    is_sound = bool((variance >= SOUND * square).all())
    return Moments(count, mean, variance) if is_sound else None


def merged(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all samples of some parts, in float64.

    Example:
        >>> ones, twos = moments(torch.ones(3, 1), -1), moments(torch.full((1, 1), 5.), -1)
        >>> merged([ones, twos])
        Moments(count=4, mean=tensor([2.], dtype=torch.float64), variance=tensor([3.], dtype=torch.float64))
    """  # noqa: E501
    means, variances = stacked([p.mean for p in parts]), stacked([p.variance for p in parts])
    counts = torch.tensor([p.count for p in parts], dtype=torch.float64, device=means.device)
    share = counts / counts.sum()
    mean = share @ means
    variance = share @ (variances + (means - mean).square())
    return Moments(sum(p.count for p in parts), mean, variance)


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """Stack tensors in float64; what was merged before may be on another device than the rest."""
    if rows[0].device != rows[-1].device:
        rows = [in_double(row) for row in rows]
    return in_double(torch.stack(list(rows)))


def in_double(x: Tensor) -> Tensor:
    """Return a tensor in float64; from Apple's accelerators, which have none, on the CPU."""
    return (x.cpu() if x.device.type == "mps" else x).double()
