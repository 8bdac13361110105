"""The mode of a model, changed for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while; its modes and buffers come back."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                if _has_values(buffer) and not _same(buffer, value):
                    buffer.copy_(value)


def _has_values(buffer: Tensor) -> bool:
    """Say whether a buffer holds anything that could have changed."""
    return not buffer.is_meta and not isinstance(buffer, FakeTensor)


def _same(buffer: Tensor, value: Tensor) -> bool:
    return buffer.shape != value.shape or torch.equal(buffer, value)
