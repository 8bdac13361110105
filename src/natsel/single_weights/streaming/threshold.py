"""Keep the k largest of many keys, exactly, in one pass over them in nearly all cases.

Few keys are copied and partitioned. Of very many, a sample says between which two the k-th lies,
almost surely. One pass writes who is above that range, and holds the few that are in it; the k-th
is found among those, and decides about them. If the sample was wrong, or too many keys lie in the
range (ties), it moves or narrows and another pass is made: the result is always exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from natsel.single_weights.streaming.engines import Engine, Part
from natsel.single_weights.streaming.keys import KeyType, ordered
from natsel.single_weights.streaming.masks import Masks
from natsel.single_weights.streaming.source import Source

FEW = 1 << 18
"""So many keys are copied, and the k-th of them looked for directly."""
SAMPLED = 3.0
"""Keys in the sample, times the number of all to the power of 2/3: reading the sample then costs
about as much as what lies between the keys that it gives."""
RUN = 16
"""Neighbours that are looked at together: a cache line of 32-bit keys."""
SURE = 3.0
"""How many standard errors of the sample's quantile lie in the range on each side."""
BINS = 16
"""Two to the power of this many bins count keys where too many lie in the range."""
ROOM = (1 << 16, 64)
"""So many keys, or one in so many, are held as they are; beyond that they are counted in bins."""


class NonFinite(Exception):
    """A key that is no finite score; holds the name of its source."""


def keep_fittest(sources: Sequence[Source], num_kept: int, engine: Engine, masks: Masks) -> None:
    """Write masks that keep exactly so many; of equals the first ones, in the order of the sources.

    Args:
        sources: whose weights compete, one behind the other; all keys are of one kind.
        num_kept: k, from 0 to the number of weights.
        engine: reads them.
        masks: of these sources, and perhaps of others.

    Raises:
        NonFinite: if a score is NaN or infinite.
    """
    kind = sources[0].kind
    size = sum(s.size for s in sources)
    if not num_kept:
        keep_first(sources, kind.infinity, 0, engine, masks)
        return
    if size <= FEW:
        keys = sortable(np.concatenate([engine.copied(p.keys) for p in engine.read(sources)]))
        key = int(np.partition(keys, size - num_kept)[size - num_kept])
        num_above = int(np.count_nonzero(keys > key))
        keep_first(sources, key, num_kept - num_above, engine, masks)
        return
    low, high = bracket(sample(sources, size), num_kept / size, kind)
    while True:
        above = 0
        tally = Tally(low, high, kind, min(size, max(ROOM[0], size // ROOM[1])))
        for part in engine.read(sources):
            out = masks.room(part.pieces)
            found = engine.survey(part.keys, low, high, out)
            check_finite(part, engine, found.smallest, found.largest)
            masks.commit(part.pieces, out)
            above += found.above
            tally.add(found.places + part.start, found.inside)
        rank = num_kept - above
        if rank < 1:
            low, high = high + 1, kind.infinity
        elif rank > tally.total:
            low, high = -kind.infinity, low - 1
        elif tally.holds:
            masks.drop(tally.losers(rank))
            return
        else:
            low, high, before = tally.locate(rank)
            if low == high:
                keep_first(sources, low, rank - before, engine, masks)
                return


def keep_first(
    sources: Sequence[Source], key: int, num_equal: int, engine: Engine, masks: Masks
) -> None:
    """Write masks of all above a key and of the first ones that equal it.

    Raises:
        NonFinite: if a score is NaN or infinite.
    """
    for part in engine.read(sources):
        check_finite(part, engine, *engine.extremes(part.keys))
        out = masks.room(part.pieces)
        num_equal -= engine.keep(part.keys, key, num_equal, out)
        masks.commit(part.pieces, out)


def check_finite(part: Part, engine: Engine, smallest: int, largest: int) -> None:
    """Refuse scores that are NaN or infinite.

    Raises:
        NonFinite: with the name of the source.
    """
    infinity = part.pieces[0].source.kind.infinity
    if -infinity < smallest and largest < infinity:
        return
    done = 0
    for piece in part.pieces:
        least, most = engine.extremes(part.keys[done : done + piece.size])
        if least <= -infinity or most >= infinity:
            raise NonFinite(piece.source.name)
        done += piece.size


def sample(sources: Sequence[Source], size: int) -> np.ndarray:
    """Return keys from all over the sources, in runs of neighbours: ``[runs, RUN]``.

    Neighbours come from memory together; the runs lie at random, one in each stretch of equal
    length. Sources shorter than a run are not looked at.
    """
    kind = sources[0].kind
    runs = np.cumsum([0, *(s.size // RUN for s in sources)])
    total = int(runs[-1])
    count = min(total, math.ceil(SAMPLED * size ** (2 / 3) / RUN))
    if not count:
        return np.empty((0, RUN), np.int64)
    random = np.random.default_rng(0)
    chosen = ((np.arange(count) + random.random(count)) * (total / count)).astype(np.int64)
    cuts = np.searchsorted(chosen, runs)
    found = []
    for source, before, first, last in zip(sources, runs, cuts, cuts[1:], strict=False):
        if first == last:
            continue
        mine = chosen[first:last] - before
        if source.plain and source.weight.device.type == "cpu":
            bits = source.bits[: source.size // RUN * RUN].reshape(-1, RUN)[mine]
            found.append(bits & kind.array(kind.magnitude))
        else:
            flat = (mine[:, None] * RUN + np.arange(RUN)).reshape(-1)
            where = torch.from_numpy(flat).to(source.weight.device)
            keys = ordered(source.at(where), kind)
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
    flat = sortable(keys.reshape(-1))
    middle = min(max(num - 1 - math.floor(num * share), 0), num - 1)
    # What is below the middle stands before it then, and what is above behind it.
    flat = np.partition(flat, middle)
    above = np.count_nonzero(keys > flat[middle], axis=1)
    margin = SURE * float(above.std()) / RUN / math.sqrt(len(above)) * num + 3
    upper, lower = math.floor(num * share - margin), math.ceil(num * share + margin)
    low, high = -kind.infinity, kind.infinity
    if upper >= 0:
        high = int(np.partition(flat[middle:], num - 1 - upper - middle)[num - 1 - upper - middle])
    if lower < num:
        low = int(np.partition(flat[: middle + 1], num - 1 - lower)[num - 1 - lower])
    return low, high


def sortable(keys: np.ndarray) -> np.ndarray:
    """Return keys in a type that numpy partitions fast: 16 bits are slower than 32."""
    return keys.astype(np.int32) if keys.itemsize < 4 else keys


class Tally:
    """Keys in a range: as they are while they are few, counted in bins when they are not.

    Args:
        low: least key.
        high: largest key.
        kind: of the keys.
        room: how many keys are held as they are.
    """

    def __init__(self, low: int, high: int, kind: KeyType, room: int) -> None:
        self.low, self.high = low, high
        self.shift = max(0, (high - low).bit_length() - BINS)
        self.total = 0
        self._places = np.empty(room, np.int64)
        self._keys = np.empty(room, kind.array)
        self._bins: np.ndarray | None = None

    @property
    def holds(self) -> bool:
        """Whether the keys are held as they are."""
        return self._bins is None

    def add(self, places: np.ndarray, keys: np.ndarray) -> None:
        """Count some keys, all in the range.

        Args:
            places: of the keys among all, rising, behind those of earlier additions.
            keys: as many.
        """
        before = self.total
        self.total += len(keys)
        if self._bins is None and self.total <= len(self._keys):
            self._places[before : self.total] = places
            self._keys[before : self.total] = keys
            return
        if self._bins is None:
            self._bins = np.zeros(((self.high - self.low) >> self.shift) + 1, np.int64)
            self._count(self._keys[:before])
        self._count(keys)

    def losers(self, rank: int) -> np.ndarray:
        """Return the places of all held keys but the largest ones; of equals the first ones stay.

        Args:
            rank: how many stay, from 1 to the total.
        """
        places, keys = self._places[: self.total], sortable(self._keys[: self.total])
        key = np.partition(keys, len(keys) - rank)[len(keys) - rank]
        lose = keys <= key
        equal = np.flatnonzero(keys == key)
        lose[equal[: rank - (len(keys) - int(np.count_nonzero(lose)))]] = False
        found: np.ndarray = places[lose]
        return found

    def locate(self, rank: int) -> tuple[int, int, int]:
        """Return where the key of a rank lies, the largest being of rank 1.

        Args:
            rank: from 1 to the total.

        Returns:
            (least, largest key that it may be, how many are larger than that).
        """
        assert self._bins is not None
        down = np.cumsum(self._bins[::-1])
        place = int(np.searchsorted(down, rank))
        bin_ = len(down) - 1 - place
        low = self.low + (bin_ << self.shift)
        high = min(low + (1 << self.shift) - 1, self.high)
        return low, high, int(down[place - 1]) if place else 0

    def _count(self, keys: np.ndarray) -> None:
        assert self._bins is not None
        # Differences of 64-bit keys may need all 64 bits: they wrap to the right unsigned number.
        steps = keys.astype(np.int64).view(np.uint64) - np.uint64(self.low & (2**64 - 1))
        steps >>= np.uint64(self.shift)
        self._bins += np.bincount(steps.view(np.int64), minlength=len(self._bins))
