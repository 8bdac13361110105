"""The same operations in compiled loops that read each weight once: the extra ``fast``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from natsel.common.extras import require
from natsel.single_weights.streaming.engines import Groups, NumpyEngine, Survey
from natsel.single_weights.streaming.keys import KeyType
from natsel.single_weights.streaming.source import Piece

CHUNK = 1 << 20
"""Keys at once: the loops need no cache for them, and each call costs."""
JOINED = 1 << 16
"""Keys of several tensors at once: to stand together they must be copied."""
UNROLLED = 16
"""The largest M for which the comparisons within a group are compiled one by one."""
RUN = 1024
"""Keys that are counted together: so few that a 16-bit number holds the count."""


class NumbaEngine(NumpyEngine):
    """On a processor, compiled; results are those of numpy.

    Keys are the weights' own memory where they can be, sign included: each loop masks it off.
    """

    chunk = CHUNK
    joined = JOINED

    def __init__(self, kind: KeyType, signed: bool) -> None:
        super().__init__(kind, signed)
        self._whole = np.dtype(kind.array).name
        self._loops = _compiled(self._whole)
        self._flags = np.empty(RUN, np.uint8)
        # One more than can be found: the last one written may be none.
        self._places = np.empty(self.chunk + 1, np.int64)
        self._found = np.empty(self.chunk + 1, kind.array)
        self._bits = kind.array(-1 if signed else kind.magnitude)

    def keys(self, pieces: tuple[Piece, ...]) -> np.ndarray:
        """Return the keys of some pieces, those of one plain piece with their sign."""
        if len(pieces) == 1 and pieces[0].source.plain:
            return pieces[0].bits
        return super().keys(pieces)

    def copied(self, keys: np.ndarray) -> np.ndarray:
        """Return the keys of a part in memory of their own."""
        found: np.ndarray = keys & self._bits
        return found

    def survey(self, keys: np.ndarray, low: int, high: int, out: np.ndarray) -> Survey:
        """Write which keys are at least ``low``, and say which lie up to ``high``."""
        of = self.kind.array
        if len(self._found) <= len(keys):
            room = len(keys) + 1
            self._places, self._found = np.empty(room, np.int64), np.empty(room, of)
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
        places, found = self._places[:count], self._found[:count]
        return Survey(int(above), int(smallest), int(largest), places, found)

    def extremes(self, keys: np.ndarray) -> tuple[int, int]:
        """Return the smallest key (0 where none is negative) and the largest one."""
        smallest, largest = self._loops.extremes(keys, self._bits)
        return int(smallest) if self.signed else 0, int(largest)

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
        _, _, num_all, behind = shape
        if behind == 1 and num_all <= UNROLLED:
            _groups(self._whole, num_kept, num_all)(keys, self._bits, out)
        else:
            super().n_of_m(keys & self._bits, num_kept, shape, out)


class Loops(NamedTuple):
    """Compiled functions of arrays."""

    survey: Callable[..., Any]
    extremes: Callable[..., Any]
    silence: Callable[..., Any]


@cache
def _compiled(whole: str) -> Loops:
    """Return the loops for keys of one type.

    Sums of small numbers are large ones to the compiler, which then handles few at once: they are
    made small again.
    """
    numba: Any = require("numba", "fast")
    narrow = getattr(numba, whole)

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
        largest = narrow(keys[0] & bits)
        smallest = narrow(0)
        count = 0
        words = flags.view(np.uint64)
        for start in range(0, keys.size, RUN):
            # Slices from their own beginning: their indices cannot be negative.
            some, mask = keys[start : start + RUN], out[start : start + RUN]
            over = narrow(0)
            top = largest
            for place in range(some.size):
                key = narrow(some[place] & bits)
                beyond, within = key > high, key >= low
                over = narrow(over + beyond)
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
                    for place in range(word << 3, min((word + 1) << 3, some.size)):
                        # What is not in the range is overwritten: no branch to guess.
                        places[count] = start + place
                        found[count] = some[place] & bits
                        count += flags[place]
        return above, smallest, largest, count

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def silence(weights: Any, mask: Any) -> None:
        for place in range(weights.size):
            weights[place] = narrow(weights[place] * mask[place])

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def extremes(keys: Any, bits: Any) -> Any:
        smallest = largest = narrow(keys[0] & bits)
        for place in range(keys.size):
            key = narrow(keys[place] & bits)
            smallest, largest = min(smallest, key), max(largest, key)
        return smallest, largest

    return Loops(survey, extremes, silence)


@cache
def _groups(whole: str, num_kept: int, num_all: int) -> Callable[..., Any]:
    """Return the loop that keeps the largest of each M keys.

    N and M are known when it is compiled, so that the inner loops are unrolled, and many groups are
    handled at once.
    """
    numba: Any = require("numba", "fast")
    narrow = getattr(numba, whole)

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def n_of_m(keys: Any, bits: Any, out: Any) -> None:
        for group in range(keys.size // num_all):
            start = group * num_all
            for place in range(num_all):
                key = narrow(keys[start + place] & bits)
                ahead = narrow(0)
                for other in range(num_all):
                    rival = narrow(keys[start + other] & bits)
                    wins = rival >= key if other < place else rival > key
                    ahead = narrow(ahead + wins)
                out[start + place] = ahead < num_kept

    found: Callable[..., Any] = n_of_m
    return found
