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
"""How a part falls into groups, or into blocks."""


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

    signed: bool

    def keys(self, source: Source, where: Index, start: int, count: int) -> Any:
        """Return the keys of one part, flat.

        Args:
            source: whose weights they are.
            where: the part's index in the weights.
            start: of its first weight among all, in their order.
            count: how many weights it has.
        """
        ...

    def read(self, source: Source) -> Iterator[Part]:
        """Yield the keys of all weights of a source, part by part, in their order."""
        ...

    def survey(self, keys: Any, low: int, high: int) -> Survey:
        """Compare keys with a range, both ends included."""
        ...

    def extremes(self, keys: Any) -> tuple[int, int]:
        """Return the smallest key (0 where none is negative) and the largest one."""
        ...

    def num_equal(self, keys: Any, key: int) -> int:
        """Count the keys that equal one."""
        ...

    def keep(self, keys: Any, least: int, out: Any, *, first_equal: int | None = None) -> None:
        """Write which keys are at least some key.

        Args:
            keys: of a part.
            least: the key.
            out: bool, as long as the part.
            first_equal: of those that equal it, only so many from the front; None for all.
        """
        ...

    def silence(self, source: Source, part: Part, mask: Any) -> None:
        """Set the weights of a part that a mask does not keep to zero."""
        ...

    def n_of_m(self, keys: Any, num_kept: int, shape: Groups, out: Any) -> None:
        """Write which keys are among the largest of their group; the first ones of equals.

        Args:
            keys: of a part.
            num_kept: N.
            shape: the part's ``[rows, groups, M, behind]``.
            out: bool, as long as the part.
        """
        ...

    def block_sums(self, scores: Tensor, shape: Groups) -> Any:
        """Return the sums of scores over blocks, ``[lines, blocks]``.

        Args:
            scores: of a part, flat.
            shape: the part's ``[lines, rows, blocks, columns]``: a block is a rectangle of rows
                and columns.
        """
        ...

    def spread(self, blocks: Any, shape: Groups, out: Any) -> None:
        """Write the mask of weights that a mask of blocks means.

        Args:
            blocks: bool ``[lines, blocks]``.
            shape: as for the sums.
            out: bool, as long as the part.
        """
        ...

    def native(self, tensor: Tensor) -> Any:
        """Return a tensor of booleans on the same memory, as this engine writes it."""
        ...


class NumpyEngine:
    """On a processor, with numpy on the tensors' own memory."""

    def __init__(self, kind: KeyType, signed: bool) -> None:
        self.kind = kind
        self.signed = signed
        self._keys = np.empty(CHUNK, kind.array)
        self._masks = np.empty((2, CHUNK), bool)

    def keys(self, source: Source, where: Index, start: int, count: int) -> np.ndarray:
        """Return the keys of one part, flat; their memory is used again for the next one."""
        if not source.plain:
            scores = source.scores(where).reshape(-1)
            whole = ordered(scores, self.kind) if self.signed else scores.view(self.kind.whole)
            return whole.numpy()
        if len(self._keys) < count:
            self._keys = np.empty(count, self.kind.array)
        keys = self._keys[:count]
        bits = source.bits[start : start + count]
        np.bitwise_and(bits, self.kind.array(self.kind.magnitude), out=keys)
        return keys

    def read(self, source: Source) -> Iterator[Part]:
        """Yield the keys of all weights of a source, part by part, in their order."""
        source = source.flat
        for where, start, count in parts(source.shape, CHUNK):
            yield Part(where, start, self.keys(source, where, start, count))

    def survey(self, keys: np.ndarray, low: int, high: int) -> Survey:
        """Compare keys with a range, both ends included."""
        inside, above = self._masks[:, : len(keys)]
        np.greater_equal(keys, self.kind.array(low), out=inside)
        np.greater(keys, self.kind.array(high), out=above)
        np.not_equal(inside, above, out=inside)
        smallest, largest = self.extremes(keys)
        return Survey(int(np.count_nonzero(above)), largest, smallest, keys[inside])

    def extremes(self, keys: np.ndarray) -> tuple[int, int]:
        """Return the smallest key (0 where none is negative) and the largest one."""
        return int(keys.min()) if self.signed else 0, int(keys.max())

    def num_equal(self, keys: np.ndarray, key: int) -> int:
        """Count the keys that equal one."""
        return int(np.count_nonzero(keys == self.kind.array(key)))

    def keep(
        self, keys: np.ndarray, least: int, out: np.ndarray, *, first_equal: int | None = None
    ) -> None:
        """Write which keys are at least some key."""
        if first_equal is None:
            np.greater_equal(keys, self.kind.array(least), out=out)
            return
        np.greater(keys, self.kind.array(least), out=out)
        out[np.flatnonzero(keys == self.kind.array(least))[:first_equal]] = True

    def silence(self, source: Source, part: Part, mask: np.ndarray) -> None:
        """Set the weights of a part that a mask does not keep to zero."""
        if source.contiguous:
            bits = source.bits[part.start : part.start + len(mask)]
            np.multiply(bits, mask, out=bits)  # all bits of those that stay, none of the others
        else:
            weight = source.weight[part.where]
            weight.masked_fill_(torch.from_numpy(~mask).view(weight.shape), 0)

    def n_of_m(self, keys: np.ndarray, num_kept: int, shape: Groups, out: np.ndarray) -> None:
        """Write which keys are among the largest of their group; the first ones of equals."""
        num_all = shape[2]
        columns = np.ascontiguousarray(keys.reshape(shape).transpose(2, 0, 1, 3))
        # How many of its group are ahead of a key: at first all that come after it.
        ahead = [np.full(columns[0].shape, num_all - 1 - at, np.uint8) for at in range(num_all)]
        first = np.empty(columns[0].shape, bool)
        for one in range(num_all):
            for other in range(one + 1, num_all):
                np.greater_equal(columns[one], columns[other], out=first)
                ahead[other] += first.view(np.uint8)
                ahead[one] -= first.view(np.uint8)
        grouped = out.reshape(shape)
        for at, count in enumerate(ahead):
            np.less(count, num_kept, out=grouped[:, :, at])

    def block_sums(self, scores: Tensor, shape: Groups) -> np.ndarray:
        """Return the sums of scores over blocks, ``[lines, blocks]``."""
        lines, rows, blocks, columns = shape
        values = scores.numpy().reshape(lines, rows, blocks * columns)
        line = np.add.reduce(values, axis=1) if rows > 1 else values
        summed = line.reshape(lines * blocks, columns) @ np.ones(columns, values.dtype)
        return np.asarray(summed.reshape(lines, blocks))

    def spread(self, blocks: np.ndarray, shape: Groups, out: np.ndarray) -> None:
        """Write the mask of weights that a mask of blocks means."""
        lines, rows, _, columns = shape
        line = np.repeat(blocks, columns, axis=1)
        out.reshape(lines, rows, -1)[:] = line[:, None]

    def native(self, tensor: Tensor) -> np.ndarray:
        """Return a tensor of booleans as an array on the same memory."""
        found: np.ndarray = tensor.numpy()
        return found


class TorchEngine:
    """On any device, with torch."""

    def __init__(self, kind: KeyType, signed: bool) -> None:
        self.kind = kind
        self.signed = signed

    def keys(self, source: Source, where: Index, start: int, count: int) -> Tensor:
        """Return the keys of one part, flat."""
        scores = source.scores(where).reshape(-1)
        return ordered(scores, self.kind) if self.signed else scores.view(self.kind.whole)

    def read(self, source: Source) -> Iterator[Part]:
        """Yield the keys of all weights of a source, part by part, in their order."""
        source = source.flat
        for where, start, count in parts(source.shape, DEVICE_CHUNK):
            yield Part(where, start, self.keys(source, where, start, count))

    def survey(self, keys: Tensor, low: int, high: int) -> Survey:
        """Compare keys with a range, both ends included."""
        above = keys > high
        inside = keys[(keys >= low) & ~above]
        smallest, largest = self.extremes(keys)
        return Survey(int(above.sum()), largest, smallest, inside.cpu().numpy())

    def extremes(self, keys: Tensor) -> tuple[int, int]:
        """Return the smallest key (0 where none is negative) and the largest one."""
        return int(keys.min()) if self.signed else 0, int(keys.max())

    def num_equal(self, keys: Tensor, key: int) -> int:
        """Count the keys that equal one."""
        return int((keys == key).sum())

    def keep(
        self, keys: Tensor, least: int, out: Tensor, *, first_equal: int | None = None
    ) -> None:
        """Write which keys are at least some key."""
        if first_equal is None:
            torch.ge(keys, least, out=out)
            return
        torch.gt(keys, least, out=out)
        out[(keys == least).nonzero().flatten()[:first_equal]] = True

    def silence(self, source: Source, part: Part, mask: Tensor) -> None:
        """Set the weights of a part that a mask does not keep to zero."""
        if source.contiguous:
            weight = source.weight.view(-1)[part.start : part.start + len(mask)]
        else:
            weight = source.weight[part.where]
        weight.masked_fill_(~mask.view(weight.shape), 0)

    def n_of_m(self, keys: Tensor, num_kept: int, shape: Groups, out: Tensor) -> None:
        """Write which keys are among the largest of their group; the first ones of equals."""
        order = keys.view(shape).argsort(stable=True, dim=2, descending=True)
        out.zero_()
        out.view(shape).scatter_(2, order[:, :, :num_kept], True)

    def block_sums(self, scores: Tensor, shape: Groups) -> Tensor:
        """Return the sums of scores over blocks, ``[lines, blocks]``."""
        return scores.view(shape).sum((1, 3))

    def spread(self, blocks: Tensor, shape: Groups, out: Tensor) -> None:
        """Write the mask of weights that a mask of blocks means."""
        out.view(shape).copy_(blocks[:, None, :, None].expand(shape))

    def native(self, tensor: Tensor) -> Tensor:
        """Return a tensor as it is."""
        return tensor
