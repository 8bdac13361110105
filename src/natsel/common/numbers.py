"""What counts as a number in an argument; a boolean is none."""

from __future__ import annotations

from typing import TypeGuard

from natsel.common.errors import refuse


def is_whole(value: object, least: int = 1) -> TypeGuard[int]:
    """Tell whether a value is a whole number of at least so much.

    Example:
        >>> is_whole(1), is_whole(0), is_whole(True), is_whole(1.0)
        (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a number, whole or not.

    Example:
        >>> is_number(1), is_number(0.5), is_number(True), is_number("1")
        (True, True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_whole(argument: str, value: object, least: int = 1, *, more: str = "") -> None:
    """Refuse what is not a whole number of at least so much.

    Args:
        argument: the name the caller used.
        value: what was given.
        least: the smallest number that is allowed.
        more: what the message says behind that.

    Raises:
        ValueError: if it is anything else.

    Example:
        >>> check_whole("floor", True)
        Traceback (most recent call last):
        ValueError: floor=True is not allowed: expected a whole number >= 1
    """
    if not is_whole(value, least):
        refuse(argument, value, f"a whole number >= {least}{more}")
