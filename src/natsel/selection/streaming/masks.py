"""Masks, written part by part: booleans, or bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from natsel.selection.streaming.engines import Engine, Part
from natsel.selection.streaming.source import Source
from natsel.selection.streaming.threshold import Threshold

Parted = tuple[Source, Part, Any]
"""A source, one of its parts, and which of its weights stay, as the engine has it."""


class Mask(Protocol):
    """Takes the masks of the parts of one source in their order."""

    def room(self, count: int) -> Any:
        """Return where the mask of the next part is to be written, bool ``[count]``."""
        ...

    def commit(self, written: Any) -> None:
        """Take what was written there."""
        ...


class BoolMask:
    """A mask of one byte a weight.

    Args:
        source: whose weights it is for.
        engine: that writes.
    """

    def __init__(self, source: Source, engine: Engine) -> None:
        self.mask = torch.empty(source.weight.shape, dtype=torch.bool, device=source.weight.device)
        self._flat = engine.native(self.mask.view(-1))
        self._done = 0

    def room(self, count: int) -> Any:
        """Return where the mask of the next part is to be written, bool ``[count]``."""
        return self._flat[self._done : self._done + count]

    def commit(self, written: Any) -> None:
        """Go on behind what was written."""
        self._done += len(written)


class BitMask:
    """A mask of one bit a weight, the first weight in the lowest bit of the first byte.

    Args:
        source: whose weights it is for.
        engine: that writes.
    """

    def __init__(self, source: Source, engine: Engine) -> None:
        self.shape = source.weight.shape
        self.bits = torch.zeros((source.size + 7) // 8, dtype=torch.uint8)
        self._engine = engine
        self._device = source.weight.device
        self._room = torch.empty(0, dtype=torch.bool, device=self._device)
        self._array = self.bits.numpy()
        self._done = 0
        self._rest = np.empty(0, bool)

    def room(self, count: int) -> Any:
        """Return where the mask of the next part is to be written, bool ``[count]``."""
        if len(self._room) < count:
            self._room = torch.empty(count, dtype=torch.bool, device=self._device)
        return self._engine.native(self._room[:count])

    def commit(self, written: Any) -> None:
        """Pack what was written; what fills no byte waits for the next part."""
        given = written if isinstance(written, np.ndarray) else written.cpu().numpy()
        if len(self._rest):
            given = np.concatenate((self._rest, given))
        last = self._done + len(given) == self.shape.numel()
        whole = len(given) if last else len(given) // 8 * 8
        packed = np.packbits(given[:whole], bitorder="little")
        self._array[self._done // 8 : self._done // 8 + len(packed)] = packed
        self._done += whole
        self._rest = given[whole:].copy()
        if last:
            del self._room


def kept_by(
    threshold: Threshold, sources: Sequence[Source], engine: Engine, masks: Mapping[str, Mask]
) -> Iterator[Parted]:
    """Write the masks of some sources that share a threshold, and yield each part.

    Of weights that equal the threshold the first ones stay, in the order of the sources.
    """
    left, equal = threshold.num_kept, threshold.num_equal
    for source in sources:
        for part in engine.read(source):
            out = masks[source.name].room(len(part.keys))
            if left == equal:  # of those that are still to come all stay
                engine.keep(part.keys, threshold.key, out)
            elif left == 0:
                engine.keep(part.keys, threshold.key + 1, out)
            else:
                here = engine.num_equal(part.keys, threshold.key)
                engine.keep(part.keys, threshold.key, out, first_equal=left)
                left, equal = left - min(left, here), equal - here
            masks[source.name].commit(out)
            yield source, part, out
