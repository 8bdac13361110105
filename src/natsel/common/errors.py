"""Errors for people: one line that names the argument, its value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NoReturn


def refuse(argument: str, value: object, allowed: str) -> NoReturn:
    """Raise a ``ValueError`` that names an argument, its value and what is allowed.

    Args:
        argument: the name the caller used.
        value: what was given.
        allowed: what may be given instead.

    Raises:
        ValueError: always.

    Example:
        >>> refuse("sparsity", 1.5, "a number in [0, 1)")
        Traceback (most recent call last):
        ValueError: sparsity=1.5 is not allowed: expected a number in [0, 1)
    """
    raise ValueError(f"{argument}={value!r} is not allowed: expected {allowed}")


def choose(argument: str, value: str, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``, else raise with the nearest one.

    Args:
        argument: the name the caller used.
        value: what was given.
        choices: every allowed name.

    Returns:
        ``value``, unchanged.

    Raises:
        ValueError: if ``value`` is not among the choices.

    Example:
        >>> choose("dynamics", "logistik", ["logistic", "replicator"])
        Traceback (most recent call last):
        ValueError: dynamics='logistik' is not allowed: expected one of logistic, replicator (did you mean 'logistic'?)
    """  # noqa: E501
    names = sorted(choices)
    if value in names:
        return value
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    refuse(argument, value, f"one of {', '.join(names)}{hint}")


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its kind if it says nothing.

    Example:
        >>> first_line(ValueError("shapes differ\\nat layer 3")), first_line(KeyError())
        ('shapes differ', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


class NonFiniteError(ArithmeticError):
    """A loss, a gradient or a fitness became NaN or infinite during a run."""
