"""The same operations, each in one compiled loop: the extra ``fast`` installs numba."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from natsel.common.extras import require
from natsel.selection.streaming.engines import NumpyEngine, Survey
from natsel.selection.streaming.keys import KeyType

RUN = 64
"""Keys that are counted together: only runs with a key in the range are looked at one by one."""


class NumbaEngine(NumpyEngine):
    """On a processor, compiled; results are those of numpy."""

    def __init__(self, kind: KeyType, signed: bool) -> None:
        super().__init__(kind, signed)
        self._survey, self._keep = _compiled()

    def survey(self, keys: np.ndarray, low: int, high: int) -> Survey:
        """Compare keys with a range, both ends included."""
        inside = np.empty(len(keys), self.kind.array)
        of = self.kind.array
        above, largest, smallest, count = self._survey(keys, of(low), of(high), inside)
        return Survey(int(above), int(largest), int(smallest), inside[:count].copy())

    def keep(self, keys: np.ndarray, least: int, *, first_equal: int | None = None) -> np.ndarray:
        """Return which keys are at least some key; the memory is used again."""
        if first_equal is not None:
            return super().keep(keys, least, first_equal=first_equal)
        mask: np.ndarray = self._masks[0, : len(keys)]
        self._keep(keys, self.kind.array(least), mask)
        return mask


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    numba: Any = require("numba", "fast")

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def survey(keys: Any, low: Any, high: Any, inside: Any) -> Any:
        above = 0
        count = 0
        largest = keys[0]
        smallest = keys[0]
        for start in range(0, keys.size, RUN):
            run = keys[start : start + RUN]
            over = 0
            within = 0
            for key in run:
                over += key > high
                within += (key >= low) & (key <= high)
                largest = max(largest, key)
                smallest = min(smallest, key)
            above += over
            if within:
                for key in run:
                    if low <= key <= high:
                        inside[count] = key
                        count += 1
        return above, largest, smallest, count

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def keep(keys: Any, least: Any, mask: Any) -> None:
        for place in range(keys.size):
            mask[place] = keys[place] >= least

    return survey, keep
