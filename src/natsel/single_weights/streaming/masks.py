"""Masks, written part by part: booleans, or bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from natsel.single_weights.streaming.engines import Engine
from natsel.single_weights.streaming.source import Piece, Source


class Masks(Protocol):
    """Holds a mask for each of some sources, that lie one behind the other."""

    def room(self, pieces: tuple[Piece, ...]) -> Any:
        """Return where the mask of some neighbouring pieces is to be written, bool, flat."""
        ...

    def commit(self, pieces: tuple[Piece, ...], written: Any) -> None:
        """Take what was written there; earlier pieces of a source come before later ones."""
        ...

    def drop(self, places: np.ndarray) -> None:
        """Let some weights go that are kept so far.

        Args:
            places: among the weights of all sources, int64, rising.
        """
        ...

    def read(self, piece: Piece) -> Any:
        """Return the mask of a piece, bool, flat."""
        ...

    def is_empty(self, source: Source) -> bool:
        """Say whether nothing of a source stays."""
        ...


class BoolMasks:
    """Masks of one byte a weight, all in one piece of memory.

    On a processor numpy asks for it in huge pages, which saves half the time of writing into
    memory that is new.

    Args:
        sources: in their order, the first one at 0.
        engine: that writes.
    """

    def __init__(self, sources: Sequence[Source], engine: Engine) -> None:
        total = sum(s.size for s in sources)
        device = sources[0].weight.device
        if device.type == "cpu":
            self._memory = torch.from_numpy(np.empty(total, bool))
        else:
            self._memory = torch.empty(total, dtype=torch.bool, device=device)
        self._flat = engine.native(self._memory)

    def room(self, pieces: tuple[Piece, ...]) -> Any:
        """Return where the mask of some neighbouring pieces is to be written, bool, flat."""
        return self._flat[pieces[0].start : pieces[-1].start + pieces[-1].size]

    def commit(self, pieces: tuple[Piece, ...], written: Any) -> None:
        """Do nothing: it stands where it belongs."""

    def drop(self, places: np.ndarray) -> None:
        """Let some weights go that are kept so far."""
        if isinstance(self._flat, np.ndarray):
            self._flat[places] = False
        else:
            self._memory[torch.from_numpy(places).to(self._memory.device)] = False

    def read(self, piece: Piece) -> Any:
        """Return the mask of a piece, bool, flat."""
        return self._flat[piece.start : piece.start + piece.size]

    def is_empty(self, source: Source) -> bool:
        """Say whether nothing of a source stays."""
        return not self._flat[source.start : source.start + source.size].any()

    def of(self, source: Source) -> Tensor:
        """Return the mask of a source, of the shape of its weights."""
        mask = self._memory[source.start : source.start + source.size]
        return mask.view(source.weight.shape)


class BitMasks:
    """Masks of one bit a weight, the first weight in the lowest bit of the first byte.

    Args:
        sources: in their order, the first one at 0.
        engine: that writes.
    """

    def __init__(self, sources: Sequence[Source], engine: Engine) -> None:
        self._engine = engine
        self._device = sources[0].weight.device
        self._room = torch.empty(0, dtype=torch.bool, device=self._device)
        self._starts = np.array([s.start for s in sources])
        sizes = [(s.size + 7) // 8 for s in sources]
        self._bytes = np.cumsum([0, *sizes])
        self._first = dict(zip(self._starts.tolist(), self._bytes.tolist(), strict=False))
        self._bits = np.zeros(self._bytes[-1], np.uint8)

    def room(self, pieces: tuple[Piece, ...]) -> Any:
        """Return where the mask of some neighbouring pieces is to be written, bool, flat."""
        count = sum(p.size for p in pieces)
        if len(self._room) < count:
            self._room = torch.empty(count, dtype=torch.bool, device=self._device)
        return self._engine.native(self._room[:count])

    def commit(self, pieces: tuple[Piece, ...], written: Any) -> None:
        """Pack what was written there; earlier pieces of a source come before later ones."""
        given = written if isinstance(written, np.ndarray) else written.cpu().numpy()
        done = 0
        for piece in pieces:
            self._pack(piece, given[done : done + piece.size])
            done += piece.size

    def _pack(self, piece: Piece, mask: np.ndarray) -> None:
        first, ahead = self._byte(piece)
        if ahead:  # the byte is shared with the piece before
            before = np.unpackbits(self._bits[first : first + 1], count=ahead, bitorder="little")
            mask = np.concatenate((before.view(bool), mask))
        packed = np.packbits(mask, bitorder="little")
        self._bits[first : first + len(packed)] = packed

    def _byte(self, piece: Piece) -> tuple[int, int]:
        """Return in which byte a piece begins, and at which of its bits."""
        return self._first[piece.source.start] + piece.offset // 8, piece.offset % 8

    def drop(self, places: np.ndarray) -> None:
        """Let some weights go that are kept so far."""
        if not len(places):
            return
        # From places among weights to places among bits: each source begins at a byte.
        cuts = np.searchsorted(places, [*self._starts, np.iinfo(np.int64).max])
        place = places + np.repeat(8 * self._bytes[:-1] - self._starts, np.diff(cuts))
        byte = place >> 3
        firsts = np.flatnonzero(byte[1:] != byte[:-1]) + 1
        firsts = np.concatenate(([0], firsts))
        gone = np.left_shift(np.uint8(1), (place & 7).astype(np.uint8))
        self._bits[byte[firsts]] -= np.add.reduceat(gone, firsts, dtype=np.uint8)

    def read(self, piece: Piece) -> Any:
        """Return the mask of a piece, bool, flat."""
        first, ahead = self._byte(piece)
        last = first + (ahead + piece.size + 7) // 8
        bits = np.unpackbits(self._bits[first:last], bitorder="little")
        mask = torch.from_numpy(bits[ahead : ahead + piece.size].view(bool))
        return self._engine.native(mask.to(self._device))

    def is_empty(self, source: Source) -> bool:
        """Say whether nothing of a source stays."""
        first = self._first[source.start]
        return not self._bits[first : first + (source.size + 7) // 8].any()

    def of(self, source: Source) -> Tensor:
        """Return the bits of a source, uint8."""
        first = self._first[source.start]
        return torch.from_numpy(self._bits[first : first + (source.size + 7) // 8])
