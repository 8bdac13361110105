"""The same operations in compiled loops that read each weight once: the extra ``fast``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from natsel.common.extras import require
from natsel.selection.streaming.engines import CHUNK, Groups, NumpyEngine, Survey
from natsel.selection.streaming.keys import KeyType
from natsel.selection.streaming.source import Index, Source

RUN = 1024
"""Keys that are counted together: so few that a 16-bit number holds the count."""


class NumbaEngine(NumpyEngine):
    """On a processor, compiled; results are those of numpy.

    Keys are the weights' own memory where they can be, sign included: each loop masks it off.
    """

    def __init__(self, kind: KeyType, signed: bool) -> None:
        super().__init__(kind, signed)
        self._survey, self._keep = _compiled()
        self._inside = np.empty(CHUNK, kind.array)
        self._bits = kind.array(-1 if signed else kind.magnitude)

    def keys(self, source: Source, where: Index, start: int, count: int) -> np.ndarray:
        """Return the keys of one part, flat, those of plain weights with their sign."""
        if source.plain:
            return source.bits[start : start + count]
        return super().keys(source, where, start, count)

    def survey(self, keys: np.ndarray, low: int, high: int) -> Survey:
        """Compare keys with a range, both ends included."""
        of = self.kind.array
        flags = self._masks[0, : len(keys)] if len(keys) <= CHUNK else np.empty(len(keys), bool)
        if len(self._inside) < len(keys):
            self._inside = np.empty(len(keys), of)
        above, largest, smallest, count = self._survey(
            keys, self._bits, of(low), of(high), flags.view(np.uint8), self._inside, self.signed
        )
        return Survey(int(above), int(largest), int(smallest), self._inside[:count].copy())

    def extremes(self, keys: np.ndarray) -> tuple[int, int]:
        """Return the smallest key (0 where none is negative) and the largest one."""
        return super().extremes(keys & self._bits)

    def num_equal(self, keys: np.ndarray, key: int) -> int:
        """Count the keys that equal one."""
        return super().num_equal(keys & self._bits, key)

    def keep(
        self, keys: np.ndarray, least: int, out: np.ndarray, *, first_equal: int | None = None
    ) -> None:
        """Write which keys are at least some key."""
        if first_equal is not None:
            super().keep(keys & self._bits, least, out, first_equal=first_equal)
        else:
            self._keep(keys, self._bits, self.kind.array(least), out)

    def n_of_m(self, keys: np.ndarray, num_kept: int, shape: Groups, out: np.ndarray) -> None:
        """Write which keys are among the largest of their group; the first ones of equals."""
        super().n_of_m(keys & self._bits, num_kept, shape, out)


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    numba: Any = require("numba", "fast")

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def survey(
        keys: Any, bits: Any, low: Any, high: Any, flags: Any, inside: Any, signed: Any
    ) -> Any:
        above = 0
        largest = keys[0] & bits
        smallest = low - low
        for start in range(0, keys.size, RUN):
            stop = min(start + RUN, keys.size)
            over = low - low
            top = largest
            for place in range(start, stop):
                key = keys[place] & bits
                beyond = key > high
                over += beyond
                top = max(top, key)
                flags[place] = (key >= low) ^ beyond
            above += over
            largest = top
            if signed:
                for place in range(start, stop):
                    smallest = min(smallest, keys[place])
        count = 0
        words = flags[: keys.size >> 3 << 3].view(np.uint64)
        for word in range(words.size):
            if words[word]:
                for place in range(word << 3, (word + 1) << 3):
                    if flags[place]:
                        inside[count] = keys[place] & bits
                        count += 1
        for place in range(words.size << 3, keys.size):
            if flags[place]:
                inside[count] = keys[place] & bits
                count += 1
        return above, largest, smallest, count

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def keep(keys: Any, bits: Any, least: Any, mask: Any) -> None:
        for place in range(keys.size):
            mask[place] = (keys[place] & bits) >= least

    return survey, keep
