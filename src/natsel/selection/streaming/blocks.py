"""Blocks of weights that stay or go together."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.selection.streaming.engines import CHUNK, Engine, Part
from natsel.selection.streaming.masks import Parted
from natsel.selection.streaming.source import Source

Shape = tuple[int, int]


def check_shape(source: Source, shape: Shape) -> None:
    """Refuse a shape that does not divide a tensor.

    Raises:
        ValueError: naming the tensor.
    """
    size = tuple(source.weight.shape)
    if len(size) < 2:
        refuse("shape", shape, f"no tensor of {len(size)} dimensions, as {source.name!r} is")
    if size[0] % shape[0] or size[1] % shape[1]:
        refuse("shape", shape, f"a shape that divides the {size[0]} x {size[1]} of {source.name!r}")


def block_scores(source: Source, shape: Shape) -> Tensor:
    """Return the mean score of each block, ``[outputs / rows, inputs / columns]``.

    Args:
        source: weights ``[outputs, inputs, ...]``.
        shape: rows and columns of a block.

    Returns:
        float32, or float64 where the weights are.
    """
    rows, columns = shape
    size = tuple(source.weight.shape)
    behind = math.prod(size[2:])
    wide = source.kind.score if source.kind.score == torch.float64 else torch.float32
    found = torch.empty(
        size[0] // rows, size[1] // columns, dtype=wide, device=source.weight.device
    )
    step = max(1, CHUNK // (rows * size[1] * behind))
    for first in range(0, len(found), step):
        last = min(first + step, len(found))
        scores = source.scores((slice(first * rows, last * rows),)).to(wide)
        lines = scores.view(last - first, rows, size[1] * behind)
        line = lines.sum(1) if rows > 1 else lines[:, 0]
        inside = line.view(last - first, size[1] // columns, columns * behind)
        out = found[first:last]
        torch.add(inside[..., 0], inside[..., 1], out=out) if inside.shape[-1] > 1 else out.copy_(
            inside[..., 0]
        )
        for place in range(2, inside.shape[-1]):
            out += inside[..., place]
    return found.div_(rows * columns * behind)


def expand(source: Source, mask: Tensor, shape: Shape, engine: Engine) -> Iterator[Parted]:
    """Yield, part by part, the mask of weights that a mask of blocks means.

    Args:
        source: the weights.
        mask: bool, one per block.
        shape: of the blocks.
        engine: whose masks they become.
    """
    rows, columns = shape
    size = tuple(source.weight.shape)
    row = math.prod(size[1:])
    wide = columns * math.prod(size[2:])
    step = max(1, CHUNK // (rows * row))
    for first in range(0, len(mask), step):
        lines = mask[first : first + step].repeat_interleave(wide, 1)
        whole = lines[:, None].expand(len(lines), rows, row).reshape(-1)
        index = (slice(first * rows, (first + len(lines)) * rows),)
        yield source, Part(index, first * rows * row, None), engine.from_torch(whole)
