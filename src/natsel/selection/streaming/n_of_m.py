"""N of each M neighbours along the input dimension survive."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from natsel.common.errors import refuse
from natsel.selection.streaming.engines import CHUNK, Engine, Groups, Part
from natsel.selection.streaming.masks import Parted
from natsel.selection.streaming.source import Index, Source
from natsel.selection.streaming.threshold import NonFinite


def kept_of_groups(
    sources: Sequence[Source], num_kept: int, num_all: int, engine: Engine
) -> Iterator[Parted]:
    """Yield the mask of every part; all scores are known to be finite before the first one.

    Args:
        sources: of weights; the input dimension is the second one, or the only one.
        num_kept: N.
        num_all: M.
        engine: reads keys.

    Raises:
        ValueError: if an input dimension is no multiple of M.
        NonFinite: if a score is NaN or infinite.
    """
    for source in sources:
        inputs = source.weight.shape[min(1, source.weight.dim() - 1)] if source.weight.dim() else 1
        if inputs % num_all:
            allowed = f"a number that divides the {inputs} inputs of {source.name!r}"
            refuse("num_all", num_all, allowed)
    for source in sources:
        for part in engine.read(source):
            found = engine.survey(part.keys, 0, 0)
            infinity = source.kind.infinity
            if found.largest >= infinity or found.smallest <= -infinity:
                raise NonFinite(source.name)
    for source in sources:
        for index, start, shape in row_parts(source, num_all):
            keys = engine.keys(source, index, start)
            mask = engine.n_of_m(keys, num_kept, shape)
            yield source, Part(index, start, keys), mask


def row_parts(source: Source, num_all: int) -> Iterator[tuple[Index, int, Groups]]:
    """Cut weights into whole rows, or a single row into whole groups.

    Yields:
        (index, where the part begins, its ``[rows, groups, M, behind]``).
    """
    size = tuple(source.weight.shape)
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
