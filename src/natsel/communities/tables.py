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
    return {
        name: value
        for name, value in vars(module).items()
        if "cache" in name
        and type(value) is dict
        and value
        and all(isinstance(held, Tensor) for held in value.values())
    }


@contextmanager
def without_tables(model: nn.Module) -> Iterator[None]:
    """Let a model compute its tables from its parameters anew; afterwards it has its own."""
    taken = [(m, name, table) for m in model.modules() for name, table in kept_tables(m).items()]
    for module, name, _ in taken:
        setattr(module, name, {})
    try:
        yield
    finally:
        for module, name, table in taken:
            setattr(module, name, table)
