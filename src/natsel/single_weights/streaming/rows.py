"""So many weights of each row survive: each output is a comparison group of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from natsel.single_weights.streaming.engines import AT_ONCE, Engine
from natsel.single_weights.streaming.masks import Masks
from natsel.single_weights.streaming.source import Source, rows_of
from natsel.single_weights.streaming.threshold import NonFinite


def row_size(source: Source) -> int:
    """Return how many weights make one output: inputs and the window of a convolution."""
    return math.prod(source.shape[1:]) if len(source.shape) > 1 else source.size


def keep_of_rows(
    sources: Sequence[Source], num_kept: Callable[[Source], int], engine: Engine, masks: Masks
) -> None:
    """Write the masks that keep the fittest of each row.

    Args:
        sources: of weights; the first dimension is of outputs, a vector is one row.
        num_kept: of a row of a source.
        engine: whose memory masks are.
        masks: what is written.

    Raises:
        NonFinite: if a score is NaN or infinite.
    """
    for source in sources:
        size, count = row_size(source), num_kept(source)
        # A vector is cut nowhere.
        lines = source.shape[0] if len(source.shape) > 1 else 1
        step = max(1, AT_ONCE // size)
        for first in range(0, lines, step):
            last = min(first + step, lines)
            ends = (first, last) if len(source.shape) > 1 else (0, source.size)
            piece = rows_of(source, *ends)
            scores = piece.scores().view(-1, size)
            if not bool(torch.isfinite(scores).all()):
                raise NonFinite(source.name)
            out = masks.room((piece,))
            kept = fittest_of_rows(scores, count).view(-1)
            if isinstance(out, Tensor):
                out.copy_(kept)
            else:
                out[:] = kept.numpy()
            masks.commit((piece,), out)


def fittest_of_rows(scores: Tensor, num_kept: int) -> Tensor:
    """Return which scores are among the largest of their row; the first ones of equals.

    Example:
        >>> fittest_of_rows(torch.tensor([[1.0, 2.0, 2.0, 2.0]]), 2)
        tensor([[False,  True,  True, False]])
    """
    if not num_kept:
        return torch.zeros_like(scores, dtype=torch.bool)
    last = _ascending(scores, scores.shape[1] - num_kept)
    above, equal = scores > last, scores == last
    return above | (equal & (equal.cumsum(1) <= num_kept - above.sum(1, keepdim=True)))


def _ascending(scores: Tensor, place: int) -> Tensor:
    """Return the score at one place of each row in ascending order, ``[rows, 1]``."""
    if scores.device.type == "cpu" and scores.dtype != torch.bfloat16:
        # Much faster than kthvalue there; numpy has no bfloat16.
        parted = np.partition(scores.detach().numpy(), place, axis=1)
        return torch.from_numpy(parted[:, place : place + 1].copy())
    return scores.kthvalue(place + 1, dim=1, keepdim=True).values
