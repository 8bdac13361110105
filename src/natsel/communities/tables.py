"""Tables that modules compute from their parameters once and keep: they are made anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def kept_tables(module: nn.Module) -> dict[str, dict[Any, Tensor]]:
    """Return the tables of tensors that a module keeps from one call to the next, by attribute.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 2)
        >>> layer.bias_cache = {"cpu": torch.zeros(2)}
        >>> list(kept_tables(layer))
        ['bias_cache']
    """
    return {name: table for name, table in _tables(module) if table}


def _tables(module: nn.Module) -> Iterator[tuple[str, dict[Any, Tensor]]]:
    """Yield the same, and those in which nothing is kept yet."""
    for name, value in vars(module).items():
        is_table = "cache" in name and type(value) is dict
        if is_table and all(isinstance(held, Tensor) for held in value.values()):
            yield name, value


@contextmanager
def without_tables(model: nn.Module) -> Iterator[None]:
    """Let a model compute its tables from its parameters anew; afterwards it has its own."""
    # One that is empty now is not to hold afterwards what the model computed in other precision.
    taken = [(m, name, table) for m in model.modules() for name, table in _tables(m)]
    for module, name, _ in taken:
        setattr(module, name, {})
    try:
        yield
    finally:
        for module, name, table in taken:
            setattr(module, name, table)
