"""Masks, written part by part: booleans, or bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from natsel.selection.streaming.engines import Engine, Part
from natsel.selection.streaming.source import Source
from natsel.selection.streaming.threshold import Threshold

ALIGNED = 64
"""Masks begin at multiples of so many bytes."""

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
        mask: bool, of the shape of the weights; what it holds does not matter.
        engine: that writes.
    """

    def __init__(self, mask: Tensor, engine: Engine) -> None:
        self.mask = mask
        self._flat = engine.native(mask.view(-1))
        self._done = 0

    def room(self, count: int) -> Any:
        """Return where the mask of the next part is to be written, bool ``[count]``."""
        return self._flat[self._done : self._done + count]

    def commit(self, written: Any) -> None:
        """Go on behind what was written."""
        self._done += len(written)


def bool_masks(sources: Sequence[Source], engine: Engine) -> dict[str, BoolMask]:
    """Return masks to write for some sources, all in one piece of memory.

    On a processor numpy asks for it in huge pages, which saves half the time of writing into
    memory that is new.
    """
    device = sources[0].weight.device
    starts = np.cumsum([0, *(-(-s.size // ALIGNED) * ALIGNED for s in sources)])
    total = int(starts[-1])
    if device.type == "cpu":
        memory = torch.from_numpy(np.empty(total, bool))
    else:
        memory = torch.empty(total, dtype=torch.bool, device=device)
    return {
        s.name: BoolMask(memory[start : start + s.size].view(s.weight.shape), engine)
        for s, start in zip(sources, starts.tolist(), strict=False)
    }


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
    known = iter(threshold.equal_by_part) if threshold.equal_by_part is not None else None
    for source in sources:
        for part in engine.read(source):
            out = masks[source.name].room(len(part.keys))
            # What equals the threshold is counted only while some of it stays and some goes.
            undecided = 0 < left < equal
            if known is not None:
                here = next(known)
            else:
                here = engine.num_equal(part.keys, threshold.key) if undecided else 0
            if left == 0:
                engine.keep(part.keys, threshold.key + 1, out)
            elif undecided and here > left:
                engine.keep(part.keys, threshold.key, out, first_equal=left)
            else:
                engine.keep(part.keys, threshold.key, out)
            if undecided:
                left, equal = max(left - here, 0), equal - here
            masks[source.name].commit(out)
            yield source, part, out
