"""The k-th largest of very many keys, exactly, in one pass over them in nearly all cases.

A sample says between which two keys the k-th lies, almost surely. One pass counts what is above
and collects what is between; the k-th is found there. If the sample was wrong, or too many keys lie
between (ties), the range moves or narrows and another pass is made: the result is always exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from natsel.selection.streaming.engines import Engine
from natsel.selection.streaming.keys import KeyType, ordered
from natsel.selection.streaming.source import Source

SAMPLES = (1 << 11, 1 << 18)
"""Keys in the sample: at least, and at most."""
SHARE = 128
"""One key in so many is in the sample."""
RUN = 8
"""Neighbours that are looked at together: a cache line of 32-bit keys holds two such runs."""
SURE = 4.0
"""How many standard errors of the sample's quantile lie in the range on each side."""
BINS = 16
"""Two to the power of this many bins count keys where too many lie in the range."""
ROOM = (1 << 16, 32)
"""So many keys, or one in so many, are held as they are; beyond that they are counted in bins."""


class Threshold(NamedTuple):
    """Who stays: all above a key, and some of those that equal it, in their order.

    Attributes:
        key: the k-th largest.
        num_kept: how many that equal it stay, at least 1.
        num_equal: how many equal it.
        largest: the largest key of each source.
        equal_by_part: how many equal it in each part of each source, in the order in which an
            engine reads them; None where that is not known.
    """

    key: int
    num_kept: int
    num_equal: int
    largest: tuple[int, ...]
    equal_by_part: tuple[int, ...] | None = None


class NonFinite(Exception):
    """A key that is no finite score; holds the name of its source."""


def find_threshold(sources: Sequence[Source], num_kept: int, engine: Engine) -> Threshold:
    """Find the key that keeps exactly so many.

    Args:
        sources: whose weights compete; all keys are of one kind.
        num_kept: k, from 1 to the number of weights.
        engine: reads them.

    Returns:
        The threshold.

    Raises:
        NonFinite: if a score is NaN or infinite.
    """
    kind = sources[0].kind
    size = sum(s.size for s in sources)
    low, high = bracket(sample(sources, size), num_kept / size, kind)
    while True:
        above = 0
        tally = Tally(low, high, max(ROOM[0], size // ROOM[1]))
        largest = []
        for source in sources:
            top = -kind.magnitude - 1
            for part in engine.read(source):
                found = engine.survey(part.keys, low, high)
                check_finite(found.smallest, found.largest, source)
                top = max(top, found.largest)
                above += found.above
                tally.add(found.inside)
            largest.append(top)
        rank = num_kept - above
        if rank < 1:
            low, high = high + 1, kind.infinity
        elif rank > tally.total:
            low, high = -kind.infinity, low - 1
        else:
            low, high, before, equal = tally.locate(rank)
            if low == high:
                return Threshold(
                    low, rank - before, equal, tuple(largest), tally.equal_by_part(low)
                )


def check_finite(smallest: int, largest: int, source: Source) -> None:
    """Refuse scores that are NaN or infinite.

    Raises:
        NonFinite: with the name of the source.
    """
    infinity = source.kind.infinity
    if largest >= infinity or smallest <= -infinity:
        raise NonFinite(source.name)


def sample(sources: Sequence[Source], size: int) -> np.ndarray:
    """Return keys from all over the sources, in runs of neighbours: ``[runs, RUN]``.

    Neighbours come from memory together; the runs lie at random, one in each stretch of equal
    length. Sources shorter than a run are not looked at.
    """
    least, most = SAMPLES
    wanted = min(max(size // SHARE, least), most) // RUN
    random = np.random.default_rng(0)
    found = [np.empty((0, RUN), sources[0].kind.array)]
    for source in sources:
        places = source.size // RUN
        count = min(places, math.ceil(wanted * source.size / size))
        if not count:
            continue
        runs = ((np.arange(count) + random.random(count)) * (places / count)).astype(np.int64)
        flat = (np.minimum(runs, places - 1) * RUN)[:, None] + np.arange(RUN)
        if source.plain and source.weight.device.type == "cpu":
            found.append(source.bits[flat] & source.kind.array(source.kind.magnitude))
        else:
            where = torch.from_numpy(flat.reshape(-1)).to(source.weight.device)
            keys = ordered(source.at(where), source.kind)
            found.append(keys.cpu().numpy().reshape(-1, RUN))
    return np.concatenate(found)


def bracket(keys: np.ndarray, share: float, kind: KeyType) -> tuple[int, int]:
    """Return between which keys the one lies that a share of all is not below.

    The error of the sample's quantile is that of the share above it, over runs: neighbours are
    alike where rows of weights have scales of their own.

    Args:
        keys: a sample, ``[runs, RUN]``.
        share: of keys that stay, in (0, 1].
        kind: tells the ends where the sample cannot.

    Returns:
        (low, high), both included.
    """
    num = keys.size
    if not num:
        return -kind.infinity, kind.infinity
    flat = keys.reshape(-1)
    middle = min(max(num - 1 - math.floor(num * share), 0), num - 1)
    above = (keys > np.partition(flat, middle)[middle]).mean(1)
    margin = SURE * float(above.std()) / math.sqrt(len(above)) * num + 3
    upper, lower = math.floor(num * share - margin), math.ceil(num * share + margin)
    places = [num - 1 - r for r in (upper, lower) if 0 <= r < num]
    parted = np.partition(flat, places) if places else flat
    high = int(parted[num - 1 - upper]) if 0 <= upper < num else kind.infinity
    low = int(parted[num - 1 - lower]) if 0 <= lower < num else -kind.infinity
    return low, high


class Tally:
    """Keys in a range: as they are while they are few, counted in bins when they are not.

    Args:
        low: least key.
        high: largest key.
        room: how many keys are held as they are.
    """

    def __init__(self, low: int, high: int, room: int) -> None:
        self.low, self.high, self.room = low, high, room
        self.shift = max(0, (high - low).bit_length() - BINS)
        self.total = 0
        self._held: list[np.ndarray] = []
        self._bins: np.ndarray | None = None

    def add(self, keys: np.ndarray) -> None:
        """Count some keys, all in the range."""
        self.total += len(keys)
        if self._bins is None:
            self._held.append(keys)
            if self.total > self.room:
                self._bins = np.zeros(((self.high - self.low) >> self.shift) + 1, np.int64)
                for held in self._held:
                    self._count(held)
                self._held = []
        else:
            self._count(keys)

    def locate(self, rank: int) -> tuple[int, int, int, int]:
        """Return where the key of a rank lies, the largest being of rank 1.

        Args:
            rank: from 1 to the total.

        Returns:
            (least, largest key that it may be, how many are larger than that, how many lie there).
        """
        if self._bins is None:
            keys = np.concatenate(self._held)
            key = int(np.partition(keys, len(keys) - rank)[len(keys) - rank])
            return key, key, int(np.count_nonzero(keys > key)), int(np.count_nonzero(keys == key))
        down = np.cumsum(self._bins[::-1])
        place = int(np.searchsorted(down, rank))
        bin_ = len(down) - 1 - place
        before = int(down[place - 1]) if place else 0
        low = self.low + (bin_ << self.shift)
        high = min(low + (1 << self.shift) - 1, self.high)
        return low, high, before, int(self._bins[bin_])

    def equal_by_part(self, key: int) -> tuple[int, ...] | None:
        """Return how many keys of each addition equal one; None if they are only counted."""
        if self._bins is not None:
            return None
        return tuple(int(np.count_nonzero(held == key)) for held in self._held)

    def _count(self, keys: np.ndarray) -> None:
        assert self._bins is not None
        # Differences of 64-bit keys may need all 64 bits: they wrap to the right unsigned number.
        steps = keys.astype(np.int64).view(np.uint64) - np.uint64(self.low & (2**64 - 1))
        steps >>= np.uint64(self.shift)
        self._bins += np.bincount(steps.view(np.int64), minlength=len(self._bins))


def walk(sources: Sequence[Source], engine: Engine, threshold: Threshold) -> Iterator[int]:
    """Yield how many of those that equal the threshold stay in each source."""
    left = threshold.num_kept
    for source in sources:
        equal = sum(engine.num_equal(p.keys, threshold.key) for p in engine.read(source))
        yield min(equal, left)
        left -= min(equal, left)
