"""Whole numbers that modules hold: in an attribute, or in a list or tuple that is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

_PLACE = re.compile(r"(?P<attribute>.+)\[(?P<place>\d+)\]")
MAX_PLACES = 16
"""A longer list is a table, not sizes of parts."""


def numbers_in(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the public whole numbers of a module by name; one of a list as ``name[place]``.

    Example:
        >>> block = nn.Identity()
        >>> block.width, block.parts = 8, (3, 5)
        >>> list(numbers_in(block))
        [('width', 8), ('parts[0]', 3), ('parts[1]', 5)]
    """
    for attribute, value in vars(module).items():
        if attribute.startswith("_"):
            continue
        if type(value) is int:
            yield attribute, value
        elif _are_sizes(value):
            yield from ((f"{attribute}[{i}]", each) for i, each in enumerate(value))


def _are_sizes(value: Any) -> bool:
    few = type(value) in (list, tuple) and len(value) <= MAX_PLACES
    return few and all(type(each) is int for each in value)


def number(module: nn.Module, name: str) -> int | None:
    """Return a whole number that :func:`numbers_in` names, or None where there is none."""
    attribute, place = _read(name)
    value: Any = vars(module).get(attribute)
    if place is not None:
        is_there = type(value) in (list, tuple) and place < len(value)
        value = value[place] if is_there else None
    return value if type(value) is int else None


def set_number(module: nn.Module, name: str, value: int) -> None:
    """Set a whole number that :func:`numbers_in` names; a list that others hold stays as it is."""
    attribute, place = _read(name)
    if place is None:
        setattr(module, attribute, value)
        return
    held = vars(module)[attribute]
    setattr(module, attribute, type(held)((*held[:place], value, *held[place + 1 :])))


def _read(name: str) -> tuple[str, int | None]:
    found = _PLACE.fullmatch(name)
    return (found["attribute"], int(found["place"])) if found else (name, None)
