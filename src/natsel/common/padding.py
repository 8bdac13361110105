"""Padding: places of a batch that are no data, and that no statistic counts.

A batch says with ``attention_mask`` ``[B, T]`` which of its places are data. While a model runs on
it, what enters a module is laid beside it: ``[B, T, n]``, ``[B, T, m, n]``, ``[B * T, n]``, or
``[B, n, T]`` before a convolution. What has one row a sample is no place of a sequence. Anything
else cannot be told apart: all its rows count, which is said.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

MASK, DECODER_MASK = "attention_mask", "decoder_attention_mask"


class Padding:
    """Which places of the batch that a model runs on are data.

    Args:
        model: that runs.
        inputs: the named inputs.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        self._mask, self._decoder_mask = (_mask(inputs.get(n)) for n in (MASK, DECODER_MASK))
        self._decoder: set[nn.Module] = set()
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False) is True:
            parts = (m for n, m in model.named_modules() if n.split(".")[-1] == "decoder")
            self._decoder = {inner for part in parts for inner in part.modules()}
        else:
            self._decoder_mask = None

    def of(self, module: nn.Module) -> Tensor | None:
        """Return the mask of what enters a module, bool ``[B, T]``; None where all is data."""
        return self._decoder_mask if module in self._decoder else self._mask


_NOW: ContextVar[Padding | None] = ContextVar("padding", default=None)


@contextmanager
def padded(model: nn.Module, inputs: object) -> Iterator[None]:
    """Let :func:`without_padding` know the padding of a batch while a model runs on it."""
    known = isinstance(inputs, Mapping) and (MASK in inputs or DECODER_MASK in inputs)
    token = _NOW.set(Padding(model, inputs) if known else None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        _NOW.reset(token)


def without_padding(module: nn.Module, x: Tensor, axis: int) -> Tensor:
    """Return what enters a module without the rows of places that are no data.

    Args:
        module: that it enters.
        x: what enters.
        axis: along which the module reads, from the end: -1, or -2 before a convolution.

    Returns:
        The same tensor where nothing is padded; else its rows, with ``axis`` where it was.

    Example:
        >>> x = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
        >>> layer = nn.Linear(1, 1)
        >>> with padded(layer, {"attention_mask": torch.tensor([[1, 1], [1, 0]])}):
        ...     without_padding(layer, x, -1).flatten()
        tensor([1., 2., 3.])
    """
    now = _NOW.get()
    mask = now.of(module) if now is not None else None
    if mask is None:
        return x
    mask = mask.to(x.device)
    size, length = mask.shape
    if axis == -1:
        if x.dim() == 3 and x.shape[:2] == mask.shape:
            return x[mask]
        if x.dim() == 4 and x.shape[:2] == mask.shape and x.shape[2] != length:
            return x[mask]
        if x.dim() == 2 and len(x) == size * length:
            return x[mask.flatten()]
        if x.dim() == 2 and len(x) == size:
            return x
    elif axis == -2 and x.dim() == 3 and (len(x), x.shape[2]) == (size, length):
        return x.movedim(1, 2)[mask].T.unsqueeze(0)
    warnings.warn(
        f"what enters {type(module).__name__} as {tuple(x.shape)} cannot be laid beside "
        f"attention_mask {(size, length)}: padding counts there",
        stacklevel=2,
    )
    return x


def _mask(value: object) -> Tensor | None:
    """Return where data are; None where everything is, or the mask is of another kind."""
    if not isinstance(value, Tensor) or value.dim() != 2 or torch.is_complex(value):
        return None
    mask = value != 0
    return None if bool(mask.all()) else mask
