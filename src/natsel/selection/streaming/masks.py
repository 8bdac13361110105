"""Masks, written part by part: booleans, or bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from natsel.selection.streaming.engines import Engine, Part
from natsel.selection.streaming.source import Source
from natsel.selection.streaming.threshold import Threshold

Parted = tuple[Source, Part, Any]
"""A source, one of its parts, and which of its weights stay, as the engine has it."""


class BoolMask:
    """A mask of one byte a weight.

    Args:
        source: whose weights it is for.
    """

    def __init__(self, source: Source) -> None:
        self.mask = torch.empty(source.weight.shape, dtype=torch.bool, device=source.weight.device)
        self._flat = self.mask.view(-1)
        self._done = 0

    def write(self, mask: Tensor) -> None:
        """Append the mask of the next part."""
        self._flat[self._done : self._done + len(mask)] = mask
        self._done += len(mask)


class BitMask:
    """A mask of one bit a weight, the first weight in the lowest bit of the first byte.

    Args:
        source: whose weights it is for.
    """

    def __init__(self, source: Source) -> None:
        self.shape = source.weight.shape
        self.bits = torch.zeros((source.size + 7) // 8, dtype=torch.uint8)
        self._array = self.bits.numpy()
        self._done = 0
        self._rest = np.empty(0, bool)

    def write(self, mask: Tensor) -> None:
        """Append the mask of the next part; what fills no byte waits for the next one."""
        given = mask.cpu().numpy()
        if len(self._rest):
            given = np.concatenate((self._rest, given))
        whole = len(given) if self._done + len(given) == self.shape.numel() else len(given) // 8 * 8
        packed = np.packbits(given[:whole], bitorder="little")
        self._array[self._done // 8 : self._done // 8 + len(packed)] = packed
        self._done += whole
        self._rest = given[whole:].copy()


def kept_by(threshold: Threshold, sources: list[Source], engine: Engine) -> Iterator[Parted]:
    """Yield the mask of every part of some sources that share a threshold.

    Of weights that equal the threshold the first ones stay, in the order of the sources.
    """
    left, equal = threshold.num_kept, threshold.num_equal
    for source in sources:
        for part in engine.read(source):
            if left == equal:  # all that are still to come stay, or there were none to decide on
                mask = engine.keep(part.keys, threshold.key)
            elif left == 0:
                mask = engine.keep(part.keys, threshold.key + 1)
            else:
                here = engine.num_equal(part.keys, threshold.key)
                mask = engine.keep(part.keys, threshold.key, first_equal=left)
                left, equal = left - min(left, here), equal - here
            yield source, part, mask
