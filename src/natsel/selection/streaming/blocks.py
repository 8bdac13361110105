"""Blocks of weights that stay or go together."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.selection.streaming.engines import CHUNK, Engine, Groups, Part
from natsel.selection.streaming.masks import Mask, Parted
from natsel.selection.streaming.source import Source

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


def block_scores(source: Source, shape: Shape, engine: Engine) -> Tensor:
    """Return the mean score of each block, ``[outputs / rows, inputs / columns]``.

    Args:
        source: weights ``[outputs, inputs, ...]``.
        shape: rows and columns of a block.
        engine: sums.

    Returns:
        float32, or float64 where the weights are.
    """
    wide = source.kind.score if source.kind.score == torch.float64 else torch.float32
    lines, rows, blocks, columns = _grouped(source, shape)
    found = torch.empty(lines, blocks, dtype=wide, device=source.weight.device)
    out = engine.native(found)
    for first, last in _steps(source, shape):
        scores = source.scores((slice(first * rows, last * rows),)).to(wide).view(-1)
        out[first:last] = engine.block_sums(scores, (last - first, rows, blocks, columns))
    return found.div_(rows * columns)


def kept_blocks(
    source: Source, chosen: Tensor, shape: Shape, engine: Engine, mask: Mask
) -> Iterator[Parted]:
    """Write the mask of weights that a mask of blocks means, and yield each part.

    Args:
        source: the weights.
        chosen: bool, one per block.
        shape: of the blocks.
        engine: writes.
        mask: what is written.
    """
    _, rows, blocks, columns = _grouped(source, shape)
    native = engine.native(chosen)
    row = blocks * columns
    for first, last in _steps(source, shape):
        out = mask.room((last - first) * rows * row)
        engine.spread(native[first:last], (last - first, rows, blocks, columns), out)
        mask.commit(out)
        yield source, Part((slice(first * rows, last * rows),), first * rows * row, None), out


def _grouped(source: Source, shape: Shape) -> Groups:
    """Return ``[lines, rows, blocks, columns]``; what lies behind the inputs counts as columns."""
    size = source.shape
    columns = shape[1] * math.prod(size[2:])
    return size[0] // shape[0], shape[0], size[1] // shape[1], columns


def _steps(source: Source, shape: Shape) -> Iterator[tuple[int, int]]:
    """Yield the lines of blocks that fit a cache together."""
    lines, rows, blocks, columns = _grouped(source, shape)
    step = max(1, CHUNK // (rows * blocks * columns))
    for first in range(0, lines, step):
        yield first, min(first + step, lines)
