"""One model of the catalogue: how it is built, and what it runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from natsel.common.calls import Inputs

Sized = Callable[[int, int], Inputs]
"""Inputs of a batch; the second number is 0 for the example's size, 1 for another one."""


@dataclass(frozen=True)
class Entry:
    """A model that people download, as small as its class allows.

    Attributes:
        name: ``library/model``.
        build: makes it, of random weights; it may raise, which is a row of the table.
        inputs: makes what it runs on.
        generates: it is a language model whose ``generate`` takes a cache.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Sized
    generates: bool = False


def pictures(size: int, other: int | None = None, *, channels: int = 3) -> Sized:
    """Return what makes batches of square pictures.

    Args:
        size: of the example's, in pixels.
        other: of fresh ones; by default the same.
        channels: of a picture.

    Example:
        >>> [tuple(x.shape) for x in pictures(8, 12)(2, 1)]
        [(2, 3, 12, 12)]
    """

    def make(batch: int, step: int) -> Inputs:
        side = (other or size) if step else size
        return (torch.randn(batch, channels, side, side),)

    return make


def tokens(vocabulary: int, length: int = 8, other: int = 11, *, name: str = "") -> Sized:
    """Return what makes batches of token numbers; the lowest four, which may be special, never.

    Args:
        vocabulary: how many numbers there are.
        length: of the example's.
        other: of fresh ones.
        name: of the argument; by default they are positional.

    Example:
        >>> {k: tuple(x.shape) for k, x in tokens(9, name="input_ids")(2, 0).items()}
        {'input_ids': (2, 8)}
    """

    def make(batch: int, step: int) -> Inputs:
        numbers = torch.randint(4, vocabulary, (batch, other if step else length))
        return {name: numbers} if name else (numbers,)

    return make
