"""What makes two models the same but for their weights: shapes, classes, Python numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from natsel.communities.tensors import all_tensors


def shapes(model: nn.Module) -> dict[str, list[int]]:
    """Return the shape of every tensor under every name it has."""
    return {name: list(tensor.shape) for name, tensor in all_tensors(model).items()}


def classes(model: nn.Module) -> dict[str, type]:
    """Return the class of every module below the model."""
    return {name: type(module) for name, module in model.named_modules() if name}


def numbers(model: nn.Module) -> dict[str, Any]:
    """Return the public numbers and tuples of numbers in every module, by "module.attribute"."""
    return {
        f"{name}.{attribute}": list(value) if isinstance(value, tuple) else value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if not attribute.startswith("_") and _is_number(value)
    }


def computed(model: nn.Module, fresh: nn.Module, *, exact: bool) -> set[str]:
    """Return the non-persistent buffers that a fresh model of the same class computes alike.

    Args:
        model: whose buffers.
        fresh: built from the configuration.
        exact: the precision must be the same too.
    """
    kept = model.state_dict(keep_vars=True).keys()
    theirs = dict(fresh.named_buffers())
    found = set()
    for name, mine in model.named_buffers():
        if name in kept or name not in theirs or theirs[name].shape != mine.shape:
            continue
        other, mine = theirs[name], mine.detach().cpu()
        if torch.equal(other if exact else other.to(mine.dtype), mine) and (
            not exact or other.dtype == mine.dtype
        ):
            found.add(name)
    return found


def _is_number(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(type(v) in (int, float) for v in value)
    return type(value) in (int, float)
