"""N of each M neighbours along the input dimension survive."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from natsel.common.errors import refuse
from natsel.selection.streaming.engines import CHUNK, Engine, Groups, Part
from natsel.selection.streaming.masks import Mask, Parted
from natsel.selection.streaming.source import Index, Source
from natsel.selection.streaming.threshold import check_finite


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


def kept_of_groups(
    sources: Sequence[Source],
    num_kept: int,
    num_all: int,
    engine: Engine,
    masks: Mapping[str, Mask],
) -> Iterator[Parted]:
    """Write the mask of every part, and yield it.

    Args:
        sources: of weights; the input dimension is the second one, or the only one.
        num_kept: N.
        num_all: M.
        engine: reads keys.
        masks: what is written.

    Raises:
        NonFinite: if a score is NaN or infinite.
    """
    for source in sources:
        for where, start, shape in row_parts(source, num_all):
            count = math.prod(shape)
            keys = engine.keys(source, where, start, count)
            check_finite(*engine.extremes(keys), source)
            out = masks[source.name].room(count)
            engine.n_of_m(keys, num_kept, shape, out)
            masks[source.name].commit(out)
            yield source, Part(where, start, keys), out


def row_parts(source: Source, num_all: int) -> Iterator[tuple[Index, int, Groups]]:
    """Cut weights into whole rows, or a single row into whole groups.

    Yields:
        (index, where the part begins, its ``[rows, groups, M, behind]``).
    """
    size = source.shape or (1,)
    if len(size) == 1:
        step = max(1, CHUNK // num_all) * num_all
        for start in range(0, size[0], step):
            stop = min(start + step, size[0])
            yield (slice(start, stop),), start, (1, (stop - start) // num_all, num_all, 1)
        return
    behind = math.prod(size[2:])
    row = size[1] * behind
    step = max(1, CHUNK // row)
    for first in range(0, size[0], step):
        rows = min(step, size[0] - first)
        shape = (rows, size[1] // num_all, num_all, behind)
        yield (slice(first, first + rows),), first * row, shape
