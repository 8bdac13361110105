"""The few operations on keys that selection needs: with numpy, or with torch on a device.

Pure torch is slow on a processor where booleans are involved, so that there numpy works on the
same memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from natsel.selection.streaming.keys import KeyType, ordered
from natsel.selection.streaming.source import Index, Source, parts

CHUNK = 1 << 17
"""Keys at once on a processor: so many fit its caches together with their masks."""
DEVICE_CHUNK = 1 << 24


Groups = tuple[int, int, int, int]
"""``[rows, groups, M, behind]``: how a part falls into groups of M neighbours."""


class Part(NamedTuple):
    """The keys of some neighbouring weights.

    Attributes:
        where: their index in the (flattened) weights.
        start: of the first one among all weights of its source.
        keys: whole numbers; the memory is used again for the next part.
    """

    where: Index
    start: int
    keys: Any


class Survey(NamedTuple):
    """What a part says about a range of keys.

    Attributes:
        above: how many keys are above the range.
        largest: the largest key.
        smallest: the smallest key, or 0 where no key is negative.
        inside: the keys in the range.
    """

    above: int
    largest: int
    smallest: int
    inside: np.ndarray


class Engine(Protocol):
    """Reads keys and writes masks."""

    def keys(self, source: Source, index: Index, start: int) -> Any:
        """Return the keys of one part, flat.

        Args:
            source: whose weights they are.
            index: where the part lies in the weights.
            start: of its first weight among all, in their order.
        """
        ...

    def read(self, source: Source) -> Iterator[Part]:
        """Yield the keys of all weights of a source, part by part, in their order."""
        ...

    def survey(self, keys: Any, low: int, high: int) -> Survey:
        """Compare keys with a range, both ends included."""
        ...

    def num_equal(self, keys: Any, key: int) -> int:
        """Count the keys that equal one."""
        ...

    def keep(self, keys: Any, least: int, *, first_equal: int | None = None) -> Any:
        """Return which keys are at least some key, bool.

        Args:
            keys: of a part.
            least: the key.
            first_equal: of those that equal it, only so many from the front; None for all.
        """
        ...

    def silence(self, source: Source, part: Part, mask: Any) -> None:
        """Set the weights of a part that a mask does not keep to zero."""
        ...

    def n_of_m(self, keys: Any, num_kept: int, shape: Groups) -> Any:
        """Return which keys are among the largest of their group; the first ones of equals.

        Args:
            keys: of a part.
            num_kept: N.
            shape: the part's ``[rows, groups, M, behind]``.
        """
        ...

    def to_torch(self, mask: Any) -> Tensor:
        """Return a mask as a tensor, bool ``[n]``."""
        ...

    def from_torch(self, mask: Tensor) -> Any:
        """Return a tensor as this engine's mask."""
        ...


class NumpyEngine:
    """On a processor, with numpy on the tensors' own memory."""

    def __init__(self, kind: KeyType, signed: bool) -> None:
        self.kind = kind
        self.signed = signed
        self._keys = np.empty(CHUNK, kind.array)
        self._masks = np.empty((2, CHUNK), bool)
        self._spread = np.empty(0, kind.array)

    def keys(self, source: Source, index: Index, start: int) -> np.ndarray:
        """Return the keys of one part, flat; their memory is used again for the next one."""
        if not source.plain:
            scores = source.scores(index).reshape(-1)
            whole = ordered(scores, self.kind) if self.signed else scores.view(self.kind.whole)
            return whole.numpy()
        count = source.weight[index].numel()
        if len(self._keys) < count:
            self._keys = np.empty(count, self.kind.array)
        keys = self._keys[:count]
        bits = bits_of(source)[start : start + count]
        np.bitwise_and(bits, self.kind.array(self.kind.magnitude), out=keys)
        return keys

    def read(self, source: Source) -> Iterator[Part]:
        """Yield the keys of all weights of a source, part by part, in their order."""
        source = source.flattened()
        for index, start, _ in parts(tuple(source.weight.shape), CHUNK):
            yield Part(index, start, self.keys(source, index, start))

    def survey(self, keys: np.ndarray, low: int, high: int) -> Survey:
        """Compare keys with a range, both ends included."""
        inside, above = self._masks[:, : len(keys)]
        np.greater_equal(keys, self.kind.array(low), out=inside)
        np.greater(keys, self.kind.array(high), out=above)
        np.not_equal(inside, above, out=inside)
        smallest = int(keys.min()) if self.signed else 0
        return Survey(int(np.count_nonzero(above)), int(keys.max()), smallest, keys[inside])

    def num_equal(self, keys: np.ndarray, key: int) -> int:
        """Count the keys that equal one."""
        return int(np.count_nonzero(keys == self.kind.array(key)))

    def keep(self, keys: np.ndarray, least: int, *, first_equal: int | None = None) -> np.ndarray:
        """Return which keys are at least some key; the memory is used again."""
        mask = self._masks[0, : len(keys)]
        if first_equal is None:
            np.greater_equal(keys, self.kind.array(least), out=mask)
        else:
            np.greater(keys, self.kind.array(least), out=mask)
            mask[np.flatnonzero(keys == self.kind.array(least))[:first_equal]] = True
        return mask

    def silence(self, source: Source, part: Part, mask: np.ndarray) -> None:
        """Set the weights of a part that a mask does not keep to zero."""
        if not source.weight.is_contiguous():
            weight = source.weight[part.where]
            weight.masked_fill_(torch.from_numpy(~mask).view(weight.shape), 0)
            return
        bits = bits_of(source)[part.start : part.start + len(mask)]
        if len(self._spread) < len(mask) or self._spread.dtype != bits.dtype:
            self._spread = np.empty(max(CHUNK, len(mask)), bits.dtype)
        spread = self._spread[: len(mask)]
        # All bits of a weight that stays are let through, none of one that goes.
        np.copyto(spread, mask.view(np.int8))
        np.negative(spread, out=spread)
        np.bitwise_and(bits, spread, out=bits)

    def n_of_m(self, keys: np.ndarray, num_kept: int, shape: Groups) -> np.ndarray:
        """Return which keys are among the largest of their group; the first ones of equals."""
        grouped = keys.reshape(shape)
        num_all = shape[2]
        columns = [np.ascontiguousarray(grouped[:, :, place]) for place in range(num_all)]
        behind = [np.zeros(columns[0].shape, np.uint8) for _ in columns]
        first = np.empty(columns[0].shape, bool)
        for one in range(num_all):
            for other in range(one + 1, num_all):
                np.greater_equal(columns[one], columns[other], out=first)
                behind[other] += first.view(np.uint8)
                np.logical_not(first, out=first)
                behind[one] += first.view(np.uint8)
        mask = np.empty(shape, bool)
        for place, count in enumerate(behind):
            np.less(count, num_kept, out=mask[:, :, place])
        return mask.reshape(-1)

    def to_torch(self, mask: np.ndarray) -> Tensor:
        """Return a mask as a tensor, bool ``[n]``."""
        return torch.from_numpy(mask)

    def from_torch(self, mask: Tensor) -> np.ndarray:
        """Return a tensor as an array on the same memory."""
        found: np.ndarray = mask.numpy()
        return found


class TorchEngine:
    """On any device, with torch."""

    def __init__(self, kind: KeyType, signed: bool) -> None:
        self.kind = kind
        self.signed = signed

    def keys(self, source: Source, index: Index, start: int) -> Tensor:
        """Return the keys of one part, flat."""
        scores = source.scores(index).reshape(-1)
        return ordered(scores, self.kind) if self.signed else scores.view(self.kind.whole)

    def read(self, source: Source) -> Iterator[Part]:
        """Yield the keys of all weights of a source, part by part, in their order."""
        source = source.flattened()
        for index, start, _ in parts(tuple(source.weight.shape), DEVICE_CHUNK):
            yield Part(index, start, self.keys(source, index, start))

    def survey(self, keys: Tensor, low: int, high: int) -> Survey:
        """Compare keys with a range, both ends included."""
        above = keys > high
        inside = keys[(keys >= low) & ~above]
        smallest = int(keys.min()) if self.signed else 0
        return Survey(int(above.sum()), int(keys.max()), smallest, inside.cpu().numpy())

    def num_equal(self, keys: Tensor, key: int) -> int:
        """Count the keys that equal one."""
        return int((keys == key).sum())

    def keep(self, keys: Tensor, least: int, *, first_equal: int | None = None) -> Tensor:
        """Return which keys are at least some key."""
        if first_equal is None:
            return keys >= least
        mask = keys > least
        mask[(keys == least).nonzero().flatten()[:first_equal]] = True
        return mask

    def silence(self, source: Source, part: Part, mask: Tensor) -> None:
        """Set the weights of a part that a mask does not keep to zero."""
        if source.weight.is_contiguous():
            weight = source.weight.view(-1)[part.start : part.start + len(mask)]
        else:
            weight = source.weight[part.where]
        weight.masked_fill_(~mask.view(weight.shape), 0)

    def n_of_m(self, keys: Tensor, num_kept: int, shape: Groups) -> Tensor:
        """Return which keys are among the largest of their group; the first ones of equals."""
        grouped = keys.view(shape)
        order = grouped.argsort(stable=True, dim=2, descending=True)
        mask = torch.zeros(shape, dtype=torch.bool, device=keys.device)
        mask.scatter_(2, order[:, :, :num_kept], True)
        return mask.view(-1)

    def to_torch(self, mask: Tensor) -> Tensor:
        """Return a mask as it is."""
        return mask

    def from_torch(self, mask: Tensor) -> Tensor:
        """Return a mask as it is."""
        return mask


def bits_of(source: Source) -> np.ndarray:
    """Return the memory of contiguous weights as whole numbers of their own width."""
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[source.weight.element_size()]
    found: np.ndarray = source.weight.view(-1).view(width).numpy()
    return found
