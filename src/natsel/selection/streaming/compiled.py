"""The same operations in compiled loops that read each weight once: the extra ``fast``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from natsel.common.extras import require
from natsel.selection.streaming.engines import CHUNK, Groups, NumpyEngine, Survey
from natsel.selection.streaming.keys import KeyType
from natsel.selection.streaming.source import Piece

RUN = 1024
"""Keys that are counted together: so few that a 16-bit number holds the count."""


class NumbaEngine(NumpyEngine):
    """On a processor, compiled; results are those of numpy.

    Keys are the weights' own memory where they can be, sign included: each loop masks it off.
    """

    def __init__(self, kind: KeyType, signed: bool) -> None:
        super().__init__(kind, signed)
        self._loops = _compiled()
        self._flags = np.empty(RUN, np.uint8)
        self._places = np.empty(CHUNK, np.int64)
        self._found = np.empty(CHUNK, kind.array)
        self._bits = kind.array(-1 if signed else kind.magnitude)

    def keys(self, pieces: tuple[Piece, ...]) -> np.ndarray:
        """Return the keys of some pieces, those of one plain piece with their sign."""
        if len(pieces) == 1 and pieces[0].source.plain:
            return pieces[0].bits
        return super().keys(pieces)

    def survey(self, keys: np.ndarray, low: int, high: int, out: np.ndarray) -> Survey:
        """Write which keys are at least ``low``, and say which lie up to ``high``."""
        of = self.kind.array
        if len(self._found) < len(keys):
            self._places, self._found = np.empty(len(keys), np.int64), np.empty(len(keys), of)
        above, smallest, largest, count = self._loops.survey(
            keys,
            self._bits,
            of(low),
            of(high),
            self.signed,
            out,
            self._flags,
            self._places,
            self._found,
        )
        places, found = self._places[:count].copy(), self._found[:count].copy()
        return Survey(int(above), int(smallest), int(largest), places, found)

    def extremes(self, keys: np.ndarray) -> tuple[int, int]:
        """Return the smallest key (0 where none is negative) and the largest one."""
        return super().extremes(keys & self._bits)

    def keep(self, keys: np.ndarray, least: int, num_equal: int, out: np.ndarray) -> int:
        """Write which keys are above some key, and the first ones that equal it."""
        return super().keep(keys & self._bits, least, num_equal, out)

    def silence(self, piece: Piece, mask: np.ndarray) -> None:
        """Set the weights of a piece that a mask does not keep to zero."""
        if piece.source.contiguous:
            self._loops.silence(piece.bits, mask)
        else:
            super().silence(piece, mask)

    def n_of_m(self, keys: np.ndarray, num_kept: int, shape: Groups, out: np.ndarray) -> None:
        """Write which keys are among the largest of their group; the first ones of equals."""
        super().n_of_m(keys & self._bits, num_kept, shape, out)


class Loops(NamedTuple):
    """Compiled functions of arrays."""

    survey: Callable[..., Any]
    silence: Callable[..., Any]


@cache
def _compiled() -> Loops:
    numba: Any = require("numba", "fast")

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def survey(
        keys: Any,
        bits: Any,
        low: Any,
        high: Any,
        signed: Any,
        out: Any,
        flags: Any,
        places: Any,
        found: Any,
    ) -> Any:
        above = 0
        largest = keys[0] & bits
        smallest = low - low
        count = 0
        words = flags.view(np.uint64)
        for start in range(0, keys.size, RUN):
            # Slices from their own beginning: their indices cannot be negative.
            some, mask = keys[start : start + RUN], out[start : start + RUN]
            over = low - low
            top = largest
            for place in range(some.size):
                key = some[place] & bits
                beyond, within = key > high, key >= low
                over += beyond
                top = max(top, key)
                mask[place] = within
                flags[place] = within ^ beyond
            above += over
            largest = top
            if signed:
                for place in range(some.size):
                    smallest = min(smallest, some[place])
            flags[some.size :] = 0
            for word in range(words.size):
                if words[word]:
                    for place in range(word << 3, (word + 1) << 3):
                        if flags[place]:
                            places[count] = start + place
                            found[count] = some[place] & bits
                            count += 1
        return above, smallest, largest, count

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def silence(weights: Any, mask: Any) -> None:
        for place in range(weights.size):
            weights[place] = weights[place] if mask[place] else 0

    return Loops(survey, silence)
