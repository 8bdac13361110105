"""Blocks of weights that stay or go together."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from natsel.common.errors import refuse
from natsel.single_weights.streaming.engines import AT_ONCE, Engine, Groups
from natsel.single_weights.streaming.masks import Masks
from natsel.single_weights.streaming.source import Source, rows_of

Shape = tuple[int, int]


def check_shape(source: Source, shape: Shape) -> None:
    """Refuse a shape that does not divide a tensor.

    Raises:
        ValueError: naming the tensor.
    """
    size = source.shape
    if len(size) < 2:
        refuse("shape", shape, f"no tensor of {len(size)} dimensions, as {source.name!r} is")
    if size[0] % shape[0] or size[1] % shape[1]:
        refuse("shape", shape, f"a shape that divides the {size[0]} x {size[1]} of {source.name!r}")


def num_blocks(source: Source, shape: Shape) -> int:
    """Return how many blocks a tensor has."""
    lines, _, blocks, _ = _grouped(source, shape)
    return lines * blocks


def block_scores(source: Source, shape: Shape, engine: Engine, out: Tensor) -> None:
    """Write the mean score of each block.

    Args:
        source: weights ``[outputs, inputs, ...]``.
        shape: rows and columns of a block.
        engine: sums.
        out: float ``[num_blocks]``, row by row of blocks.
    """
    lines, rows, blocks, columns = _grouped(source, shape)
    native = engine.native(out.view(lines, blocks))
    for first, last in _steps(source, shape):
        scores = rows_of(source, first * rows, last * rows).scores().to(out.dtype)
        shape_here = (last - first, rows, blocks, columns)
        engine.block_means(scores, shape_here, native[first:last])


def keep_blocks(source: Source, chosen: Tensor, shape: Shape, engine: Engine, masks: Masks) -> None:
    """Write the mask of weights that a mask of blocks means.

    Args:
        source: the weights.
        chosen: bool ``[num_blocks]``.
        shape: of the blocks.
        engine: writes.
        masks: what is written.
    """
    lines, rows, blocks, columns = _grouped(source, shape)
    native = engine.native(chosen.view(lines, blocks))
    for first, last in _steps(source, shape):
        piece = rows_of(source, first * rows, last * rows)
        out = masks.room((piece,))
        engine.spread(native[first:last], (last - first, rows, blocks, columns), out)
        masks.commit((piece,), out)


def _grouped(source: Source, shape: Shape) -> Groups:
    """Return ``[lines, rows, blocks, columns]``; what lies behind the inputs counts as columns."""
    size = source.shape
    columns = shape[1] * math.prod(size[2:])
    return size[0] // shape[0], shape[0], size[1] // shape[1], columns


def _steps(source: Source, shape: Shape) -> Iterator[tuple[int, int]]:
    """Yield the lines of blocks that fit a cache together."""
    lines, rows, blocks, columns = _grouped(source, shape)
    step = max(1, AT_ONCE // (rows * blocks * columns))
    for first in range(0, lines, step):
        yield first, min(first + step, lines)
