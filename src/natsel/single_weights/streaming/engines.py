"""The few operations on keys that selection needs: with numpy, or with torch on a device.

Pure torch is slow on a processor where booleans are involved, so that there numpy works on the
same memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from natsel.single_weights.streaming.keys import KeyType, ordered
from natsel.single_weights.streaming.source import Piece, Source, cut

CHUNK = 1 << 17
"""Keys at once on a processor: so many fit its caches together with their masks."""
AT_ONCE = 1 << 18
"""Weights at once where many small operations follow each other: each call costs."""
DEVICE_CHUNK = 1 << 24


Groups = tuple[int, int, int, int]
"""How a part falls into groups, or into blocks."""


class Part(NamedTuple):
    """The keys of some neighbouring weights, of one source or of several.

    Attributes:
        pieces: whose they are.
        keys: whole numbers, flat; the memory is used again for the next part.
    """

    pieces: tuple[Piece, ...]
    keys: Any

    @property
    def start(self) -> int:
        """Of the first one among the weights of all sources."""
        return self.pieces[0].start


class Survey(NamedTuple):
    """What a part says about a range of keys.

    Attributes:
        above: how many keys are above the range.
        smallest: the smallest key, or 0 where no key is negative.
        largest: the largest key.
        places: which keys are in the range, int64, rising; the memory is used again.
        inside: those keys; the memory is used again.
    """

    above: int
    smallest: int
    largest: int
    places: np.ndarray
    inside: np.ndarray


class Engine(Protocol):
    """Reads keys and writes masks."""

    signed: bool

    def keys(self, pieces: tuple[Piece, ...]) -> Any:
        """Return the keys of some pieces, one behind the other."""
        ...

    def read(self, sources: Iterable[Source]) -> Iterator[Part]:
        """Yield the keys of all weights of some sources, part by part, in their order."""
        ...

    def copied(self, keys: Any) -> np.ndarray:
        """Return the keys of a part in memory of their own."""
        ...

    def survey(self, keys: Any, low: int, high: int, out: Any) -> Survey:
        """Write which keys are at least ``low``, and say which lie up to ``high``.

        Args:
            keys: of a part.
            low: the least key of the range.
            high: its largest key, included.
            out: bool, as long as the part.
        """
        ...

    def extremes(self, keys: Any) -> tuple[int, int]:
        """Return the smallest key (0 where none is negative) and the largest one."""
        ...

    def keep(self, keys: Any, least: int, num_equal: int, out: Any) -> int:
        """Write which keys are above some key, and the first ones that equal it.

        Args:
            keys: of a part.
            least: the key.
            num_equal: of those that equal it, at most so many from the front.
            out: bool, as long as the part.

        Returns:
            How many of those that equal it are kept.
        """
        ...

    def silence(self, piece: Piece, mask: Any) -> None:
        """Set the weights of a piece that a mask does not keep to zero."""
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

    def block_means(self, scores: Tensor, shape: Groups, out: Any) -> None:
        """Write the means of scores over blocks.

        Args:
            scores: of a part, flat.
            shape: the part's ``[lines, rows, blocks, columns]``: a block is a rectangle of rows
                and columns.
            out: of the scores' type, ``[lines, blocks]``.
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


def computed(piece: Piece, *, signed: bool) -> Tensor:
    """Return the keys of a piece from its scores, flat; of unsigned scores they are the bits."""
    scores, kind = piece.scores(), piece.source.kind
    return ordered(scores, kind) if signed else scores.view(kind.whole)


class NumpyEngine:
    """On a processor, with numpy on the tensors' own memory.

    Attributes:
        chunk: keys in a part at most.
        joined: keys at most where a part holds those of several sources.
    """

    chunk = CHUNK
    joined = CHUNK

    def __init__(self, kind: KeyType, signed: bool) -> None:
        self.kind = kind
        self.signed = signed
        self._keys = np.empty(self.joined, kind.array)
        self._inside = np.empty(self.joined, bool)

    def keys(self, pieces: tuple[Piece, ...]) -> np.ndarray:
        """Return the keys of some pieces, one behind the other; the next ones overwrite them."""
        if len(pieces) == 1 and not pieces[0].source.plain:
            return self._computed(pieces[0])
        count = sum(p.size for p in pieces)
        if len(self._keys) < count:
            self._keys = np.empty(count, self.kind.array)
        done = 0
        for piece in pieces:
            out = self._keys[done : done + piece.size]
            if piece.source.plain:
                np.bitwise_and(piece.bits, self.kind.array(self.kind.magnitude), out=out)
            else:
                out[:] = self._computed(piece)
            done += piece.size
        return self._keys[:count]

    def _computed(self, piece: Piece) -> np.ndarray:
        found: np.ndarray = computed(piece, signed=self.signed).numpy()
        return found

    def read(self, sources: Iterable[Source]) -> Iterator[Part]:
        """Yield the keys of all weights of some sources, part by part, in their order."""
        for pieces in cut(sources, self.chunk, joined=self.joined):
            yield Part(pieces, self.keys(pieces))

    def copied(self, keys: np.ndarray) -> np.ndarray:
        """Return the keys of a part in memory of their own."""
        return keys.copy()

    def survey(self, keys: np.ndarray, low: int, high: int, out: np.ndarray) -> Survey:
        """Write which keys are at least ``low``, and say which lie up to ``high``."""
        if len(self._inside) < len(keys):
            self._inside = np.empty(len(keys), bool)
        inside = self._inside[: len(keys)]
        np.greater_equal(keys, self.kind.array(low), out=out)
        np.greater(keys, self.kind.array(high), out=inside)
        above = int(np.count_nonzero(inside))
        np.not_equal(inside, out, out=inside)
        places = np.flatnonzero(inside)
        return Survey(above, *self.extremes(keys), places, keys[places])

    def extremes(self, keys: np.ndarray) -> tuple[int, int]:
        """Return the smallest key (0 where none is negative) and the largest one."""
        return int(keys.min()) if self.signed else 0, int(keys.max())

    def keep(self, keys: np.ndarray, least: int, num_equal: int, out: np.ndarray) -> int:
        """Write which keys are above some key, and the first ones that equal it."""
        np.greater(keys, self.kind.array(least), out=out)
        if not num_equal:
            return 0
        equal = np.flatnonzero(keys == self.kind.array(least))[:num_equal]
        out[equal] = True
        return len(equal)

    def silence(self, piece: Piece, mask: np.ndarray) -> None:
        """Set the weights of a piece that a mask does not keep to zero."""
        if piece.source.contiguous:
            # All bits of those that stay, none of the others.
            np.multiply(piece.bits, mask, out=piece.bits)
        else:
            weight = piece.weights
            weight.masked_fill_(torch.from_numpy(~mask).view(weight.shape), 0)

    def n_of_m(self, keys: np.ndarray, num_kept: int, shape: Groups, out: np.ndarray) -> None:
        """Write which keys are among the largest of their group; the first ones of equals."""
        num_all = shape[2]
        columns = np.ascontiguousarray(keys.reshape(shape).transpose(2, 0, 1, 3))
        # How many of its group are ahead of a key: at first all that come after it.
        small = np.uint8 if num_all < 256 else np.int64
        later: np.ndarray = np.arange(num_all - 1, -1, -1).astype(small)
        ahead: np.ndarray = np.empty(columns.shape, small)
        ahead[:] = later[:, None, None, None]
        for one in range(num_all - 1):
            first = (columns[one] >= columns[one + 1 :]).view(np.uint8)
            ahead[one + 1 :] += first
            mine = ahead[one]
            for other in first:
                mine -= other
        stays = ahead < num_kept
        grouped = out.reshape(shape)
        for at in range(num_all):
            grouped[:, :, at] = stays[at]

    def block_means(self, scores: Tensor, shape: Groups, out: np.ndarray) -> None:
        """Write the means of scores over blocks."""
        lines, rows, blocks, columns = shape
        values = scores.numpy().reshape(lines, rows, blocks * columns)
        line = np.add.reduce(values, axis=1) if rows > 1 else values
        summed = line.reshape(lines * blocks, columns) @ np.ones(columns, values.dtype)
        np.divide(summed.reshape(lines, blocks), rows * columns, out=out)

    def spread(self, blocks: np.ndarray, shape: Groups, out: np.ndarray) -> None:
        """Write the mask of weights that a mask of blocks means."""
        lines, rows, _, columns = shape
        out.reshape(lines, rows, -1)[:] = repeated(blocks, columns)[:, None]

    def native(self, tensor: Tensor) -> np.ndarray:
        """Return a tensor of booleans as an array on the same memory."""
        found: np.ndarray = tensor.numpy()
        return found


def repeated(blocks: np.ndarray, columns: int) -> np.ndarray:
    """Repeat each boolean of ``[lines, blocks]`` along its line.

    Example:
        >>> repeated(np.array([[True, False]]), 2).tolist()
        [[True, True, False, False]]
    """
    if columns not in (2, 4, 8):
        return np.repeat(blocks, columns, axis=1)
    # One word with as many bytes, each of them the boolean: numpy repeats much slower.
    word = np.dtype(f"u{columns}").type
    ones = word(int.from_bytes(columns * b"\1", "little"))
    words: np.ndarray = blocks.view(np.uint8).astype(word) * ones
    return words.view(bool)


class TorchEngine:
    """On any device, with torch."""

    def __init__(self, kind: KeyType, signed: bool) -> None:
        self.kind = kind
        self.signed = signed

    def keys(self, pieces: tuple[Piece, ...]) -> Tensor:
        """Return the keys of some pieces, one behind the other."""
        found = [computed(piece, signed=self.signed) for piece in pieces]
        return found[0] if len(found) == 1 else torch.cat(found)

    def read(self, sources: Iterable[Source]) -> Iterator[Part]:
        """Yield the keys of all weights of some sources, part by part, in their order."""
        for pieces in cut(sources, DEVICE_CHUNK):
            yield Part(pieces, self.keys(pieces))

    def copied(self, keys: Tensor) -> np.ndarray:
        """Return the keys of a part in memory of their own."""
        found: np.ndarray = keys.cpu().numpy()
        return found

    def survey(self, keys: Tensor, low: int, high: int, out: Tensor) -> Survey:
        """Write which keys are at least ``low``, and say which lie up to ``high``."""
        above = keys > high
        torch.ge(keys, low, out=out)
        places = (out ^ above).nonzero().flatten()
        inside = keys[places].cpu().numpy()
        return Survey(int(above.sum()), *self.extremes(keys), places.cpu().numpy(), inside)

    def extremes(self, keys: Tensor) -> tuple[int, int]:
        """Return the smallest key (0 where none is negative) and the largest one."""
        return int(keys.min()) if self.signed else 0, int(keys.max())

    def keep(self, keys: Tensor, least: int, num_equal: int, out: Tensor) -> int:
        """Write which keys are above some key, and the first ones that equal it."""
        torch.gt(keys, least, out=out)
        if not num_equal:
            return 0
        equal = (keys == least).nonzero().flatten()[:num_equal]
        out[equal] = True
        return len(equal)

    def silence(self, piece: Piece, mask: Tensor) -> None:
        """Set the weights of a piece that a mask does not keep to zero."""
        weight = piece.weights
        weight.masked_fill_(~mask.view(weight.shape), 0)

    def n_of_m(self, keys: Tensor, num_kept: int, shape: Groups, out: Tensor) -> None:
        """Write which keys are among the largest of their group; the first ones of equals."""
        order = keys.view(shape).argsort(stable=True, dim=2, descending=True)
        out.zero_()
        out.view(shape).scatter_(2, order[:, :, :num_kept], True)

    def block_means(self, scores: Tensor, shape: Groups, out: Tensor) -> None:
        """Write the means of scores over blocks."""
        torch.div(scores.view(shape).sum((1, 3)), shape[1] * shape[3], out=out)

    def spread(self, blocks: Tensor, shape: Groups, out: Tensor) -> None:
        """Write the mask of weights that a mask of blocks means."""
        out.view(shape).copy_(blocks[:, None, :, None].expand(shape))

    def native(self, tensor: Tensor) -> Tensor:
        """Return a tensor as it is."""
        return tensor
