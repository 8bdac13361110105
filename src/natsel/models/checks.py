"""Checks that every reference network makes of its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from natsel.common.errors import refuse
from natsel.common.numbers import is_whole


def positive(argument: str, value: Any) -> int:
    """Return a whole number of at least 1, or refuse.

    Args:
        argument: the name the caller used.
        value: what was given.

    Returns:
        The number.

    Raises:
        ValueError: if it is anything else.
    """
    if not is_whole(value):
        refuse(argument, value, "a whole number of at least 1")
    return value


def positives(argument: str, values: Any) -> tuple[int, ...]:
    """Return several whole numbers of at least 1, or refuse.

    Args:
        argument: the name the caller used.
        values: what was given.

    Returns:
        The numbers.

    Raises:
        ValueError: if it is anything else.
    """
    if not isinstance(values, Sequence) or isinstance(values, str):
        refuse(argument, values, "a list of whole numbers of at least 1")
    return tuple(positive(argument, value) for value in values)


def image_shape(in_shape: Sequence[int], smallest: int = 1) -> tuple[int, int, int]:
    """Return the shape of an image, or refuse.

    Args:
        in_shape: what was given.
        smallest: the least height and width.

    Returns:
        Channels, height and width.

    Raises:
        ValueError: if it is no such shape.
    """
    if len(in_shape) != 3 or min(in_shape[1:]) < smallest:
        refuse("in_shape", tuple(in_shape), f"(C, H, W) with H and W of at least {smallest}")
    channels, height, width = in_shape
    return channels, height, width
