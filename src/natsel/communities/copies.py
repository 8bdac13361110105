"""Copies of models in which some tensors are others, or the very same."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn

from natsel.communities.tables import kept_tables

ATOMS = frozenset(
    (
        int,
        float,
        complex,
        bool,
        str,
        bytes,
        type(None),
        type,
        FunctionType,
        BuiltinFunctionType,
        torch.dtype,
        torch.device,
        torch.Size,
        torch.memory_format,
        torch.layout,
    )
)
"""Types of what cannot change, of which a deep copy is the thing itself."""

TABLES = frozenset(
    name for name, value in nn.Module().__dict__.items() if isinstance(value, (dict, set))
)
"""Tables that torch gives every module, which no two share."""

COPYING = ("__reduce_ex__", "__reduce__", "__getstate__")


def copied(model: nn.Module, instead: Mapping[int, Tensor]) -> nn.Module:
    """Return a deep copy of a model.

    Args:
        model: the model, which is not touched.
        instead: by the ``id`` of a tensor of the model, what the copy holds in its place: a
            smaller one, or the same, which both then share.

    Returns:
        The copy.

    Example:
        >>> model = nn.Linear(2, 3)
        >>> copied(model, {id(model.weight): model.weight}).weight is model.weight
        True
    """
    memo: dict[int, Any] = dict(instead)
    for module in model.modules():
        for table in kept_tables(module).values():
            memo[id(table)] = {}  # it is computed from parameters, which may be others in the copy
    found: nn.Module = _copy(model, memo)
    return found


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    """Do what ``copy.deepcopy`` does, which asks of everything in a module how it is copied."""
    kind = type(value)
    if kind in ATOMS:
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if isinstance(value, nn.Module):
        return (
            _module(value, memo) if _is_usual(cast(Hashable, kind)) else copy.deepcopy(value, memo)
        )
    if kind is dict or kind is OrderedDict:
        table = memo[id(value)] = kind()
        for key, item in value.items():
            table[_copy(key, memo)] = _copy(item, memo)
        return table
    if kind is list:
        items = memo[id(value)] = []
        items.extend(_copy(item, memo) for item in value)
        return items
    if kind is set and not value:
        return memo.setdefault(id(value), set())
    if isinstance(value, Tensor) and not value.is_leaf:
        # What a hook computed from parameters last time: torch copies leaves only.
        memo[id(value)] = found = value.detach().clone()
        return found
    return copy.deepcopy(value, memo)


def _module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    kind = type(module)
    new = memo[id(module)] = kind.__new__(kind)
    held: dict[str, Any] = {}
    for name, value in module.__dict__.items():
        # Most of what a module holds is a number, or a table of torch's that is empty.
        if type(value) in ATOMS:
            held[name] = value
        elif name in TABLES and type(value) in (dict, OrderedDict, set) and not value:
            held[name] = type(value)()
        else:
            held[name] = _copy(value, memo)
    new.__setstate__(held)  # type: ignore[no-untyped-call]
    return new


@lru_cache(maxsize=1024)
def _is_usual(kind: Any) -> bool:
    """Tell whether modules of a class are copied as all are: no more than what they hold."""
    return (
        not hasattr(kind, "__deepcopy__")
        and all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in COPYING)
        and not any("__slots__" in vars(base) for base in kind.__mro__)
    )
