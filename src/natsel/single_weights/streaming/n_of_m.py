"""N of each M neighbours along the input dimension survive."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from natsel.common.errors import refuse
from natsel.single_weights.streaming.engines import AT_ONCE, Engine, Groups, Part
from natsel.single_weights.streaming.masks import Masks
from natsel.single_weights.streaming.source import Piece, Source, cut, rows_of
from natsel.single_weights.streaming.threshold import check_finite


def check_groups(sources: Sequence[Source], num_all: int) -> None:
    """Refuse an M that does not divide the inputs of a tensor.

    Raises:
        ValueError: naming the tensor.
    """
    for source in sources:
        inputs = source.shape[min(1, len(source.shape) - 1)] if source.shape else 1
        if inputs % num_all:
            allowed = f"a number that divides the {inputs} inputs of {source.name!r}"
            refuse("num_all", num_all, allowed)


def keep_of_groups(
    sources: Sequence[Source], num_kept: int, num_all: int, engine: Engine, masks: Masks
) -> None:
    """Write the masks that keep N of each M.

    Args:
        sources: of weights; the input dimension is the second one, or the only one.
        num_kept: N.
        num_all: M.
        engine: reads keys.
        masks: what is written.

    Raises:
        NonFinite: if a score is NaN or infinite.
    """
    for pieces, shape in stretches(sources, num_all):
        part = Part(pieces, engine.keys(pieces))
        check_finite(part, engine, *engine.extremes(part.keys))
        out = masks.room(pieces)
        engine.n_of_m(part.keys, num_kept, shape, out)
        masks.commit(pieces, out)


def stretches(
    sources: Sequence[Source], num_all: int
) -> Iterator[tuple[tuple[Piece, ...], Groups]]:
    """Cut weights into stretches of whole groups.

    Yields:
        (pieces, their ``[rows, groups, M, behind]``).
    """
    for in_line, some in itertools.groupby(sources, key=lambda s: math.prod(s.shape[2:]) == 1):
        if in_line:  # groups lie one behind the other
            for pieces in cut(some, max(1, AT_ONCE // num_all) * num_all):
                count = sum(p.size for p in pieces)
                yield pieces, (1, count // num_all, num_all, 1)
            continue
        for source in some:
            outputs, inputs, *window = source.shape
            step = max(1, AT_ONCE // (inputs * math.prod(window)))
            for first in range(0, outputs, step):
                rows = min(step, outputs - first)
                piece = rows_of(source, first, first + rows)
                yield (piece,), (rows, inputs // num_all, num_all, math.prod(window))
