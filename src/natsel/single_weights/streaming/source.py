"""One tensor of weights, cut into parts that fit a cache, and what scores them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from natsel.single_weights.streaming.keys import KeyType

Scorer = Callable[[Tensor, Tensor | None], Tensor]
"""From weights and a second tensor of their shape to scores, element by element."""

Index = tuple[int | slice, ...]


def magnitude(weight: Tensor, second: Tensor | None) -> Tensor:
    """Return |w|."""
    return weight.abs()


def product(weight: Tensor, second: Tensor | None) -> Tensor:
    """Return |w s|.

    With the norm of the input that a weight multiplies (Wanda: Sun et al., 2306.11695), or with the
    gradient of the weight (first-order Taylor).
    """
    assert second is not None
    return (weight * second).abs_()


def identity(weight: Tensor, second: Tensor | None) -> Tensor:
    """Return w: where the tensor already holds scores."""
    return weight


UNSIGNED: tuple[Scorer, ...] = (magnitude, product)
"""Scorers that are never negative, -0 included."""


@dataclass(frozen=True, eq=False)
class Source:
    """One tensor whose weights compete.

    Attributes:
        name: of the community.
        weight: any shape and stride, not empty.
        scorer: makes scores of weights.
        kind: how scores become keys; the weights' own type, or a wider one.
        second: of the shape of the weights, or None.
        start: of its first weight among those of all sources.
    """

    name: str
    weight: Tensor
    scorer: Scorer
    kind: KeyType
    second: Tensor | None = None
    start: int = 0

    @property
    def size(self) -> int:
        """How many weights there are."""
        return self.weight.numel()

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the weights."""
        return tuple(self.weight.shape)

    @cached_property
    def contiguous(self) -> bool:
        """Whether the weights lie in memory in their order."""
        return self.weight.is_contiguous()

    @cached_property
    def plain(self) -> bool:
        """Whether keys are the weights' own bits: nothing has to be computed."""
        own = self.weight.dtype == self.kind.score
        return self.scorer is magnitude and own and self.contiguous

    @cached_property
    def bits(self) -> np.ndarray:
        """The memory of contiguous weights as whole numbers of their own width, flat."""
        weight = self.weight
        if weight.dtype == torch.bfloat16:  # numpy has no such numbers
            weight = weight.view(torch.int16)
        return weight.numpy().reshape(-1).view(f"i{weight.element_size()}")

    @cached_property
    def in_line(self) -> bool:
        """Whether weights, and what they are multiplied with, lie in memory in their order."""
        return self.contiguous and (self.second is None or self.second.is_contiguous())

    @cached_property
    def flat(self) -> Source:
        """The source as one row, where that needs no copy; else as it is."""
        if self.weight.dim() == 1 or not self.in_line:
            return self
        second = self.second.view(-1) if self.second is not None else None
        return Source(self.name, self.weight.view(-1), self.scorer, self.kind, second, self.start)

    def scores(self, where: Index | tuple[Tensor, ...]) -> Tensor:
        """Return the scores at an index, contiguous, in the type of the keys."""
        weight = self.weight[where].to(self.kind.score)
        second = self.second[where].to(self.kind.score) if self.second is not None else None
        return self.scorer(weight, second).contiguous()

    def at(self, places: Tensor) -> Tensor:
        """Return the scores at flat places, int64 ``[m]``."""
        if self.flat.weight.dim() == 1:
            return self.flat.scores((places,))
        return self.scores(torch.unravel_index(places, self.weight.shape))


class Piece(NamedTuple):
    """Some neighbouring weights of one source.

    Attributes:
        source: whose they are.
        where: their index in its weights, or in those of ``source.flat`` if it is in line.
        offset: of the first one in its flattened weights.
        size: how many they are.
    """

    source: Source
    where: Index
    offset: int
    size: int

    @property
    def start(self) -> int:
        """Of the first one among the weights of all sources."""
        return self.source.start + self.offset

    @property
    def weights(self) -> Tensor:
        """They themselves."""
        return self.source.flat.weight[self.where]

    def scores(self) -> Tensor:
        """Return their scores, flat."""
        return self.source.flat.scores(self.where).reshape(-1)

    @property
    def bits(self) -> np.ndarray:
        """Their memory, where the source is contiguous."""
        return self.source.bits[self.offset : self.offset + self.size]


def rows_of(source: Source, first: int, last: int) -> Piece:
    """Return the weights of some neighbouring outputs."""
    row = math.prod(source.shape[1:])
    where = slice(first * row, last * row) if source.in_line else slice(first, last)
    return Piece(source, (where,), first * row, (last - first) * row)


def cut(
    sources: Iterable[Source], limit: int, *, joined: int | None = None
) -> Iterator[tuple[Piece, ...]]:
    """Cut the weights of some sources, in their order, into stretches.

    Args:
        sources: not empty.
        limit: weights in a stretch at most.
        joined: weights at most where a stretch holds pieces of several sources; None for
            as many as the limit.
    """
    joined = limit if joined is None else joined
    held: list[Piece] = []
    size = 0
    for source in sources:
        for piece in _pieces(source, limit):
            if held and size + piece.size > joined:
                yield tuple(held)
                held, size = [], 0
            held.append(piece)
            size += piece.size
    yield tuple(held)


def _pieces(source: Source, limit: int) -> Iterable[Piece]:
    size = source.size
    if not source.in_line:
        return (Piece(source, *part) for part in parts(source.shape, limit))
    starts = range(0, size, limit)
    stops = (*starts[1:], size)
    return [Piece(source, (slice(a, b),), a, b - a) for a, b in zip(starts, stops, strict=True)]


def parts(shape: tuple[int, ...], limit: int) -> Iterator[tuple[Index, int, int]]:
    """Cut a tensor into parts of at most so many elements, in the order of its elements.

    Args:
        shape: of the tensor, no dimension 0.
        limit: elements in a part at most.

    Yields:
        (index, where the part begins in the flattened tensor, how many elements it has).

    Example:
        >>> [(start, count) for _, start, count in parts((3, 4), 8)]
        [(0, 8), (8, 4)]
    """
    axis = next(a for a in range(len(shape)) if math.prod(shape[a + 1 :]) <= limit)
    inner = math.prod(shape[axis + 1 :])
    step = max(1, limit // inner)
    start = 0
    for lead in itertools.product(*map(range, shape[:axis])):
        for first in range(0, shape[axis], step):
            stop = min(first + step, shape[axis])
            count = (stop - first) * inner
            yield (*lead, slice(first, stop)), start, count
            start += count
