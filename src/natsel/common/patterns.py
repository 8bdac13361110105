"""Which communities an option speaks of: patterns of names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from natsel.common.errors import refuse, refuse_together

Value = TypeVar("Value")
Patterns = str | Sequence[str] | None
NUM_NAMED = 3


def matching(argument: str, pattern: object, names: Iterable[str]) -> list[str]:
    """Return the names that match a pattern with ``*``, ``?`` and ``[...]``, in order.

    Args:
        argument: the option that holds the pattern, for the message.
        pattern: as a shell would take it; case matters.
        names: every name there is.

    Returns:
        At least one name.

    Raises:
        ValueError: if none matches; it names the nearest.

    Example:
        >>> matching("include", "layer*", ["layer1.0", "head", "layer2.0"])
        ['layer1.0', 'layer2.0']
    """
    names = list(names)
    found = [n for n in names if fnmatchcase(n, pattern)] if isinstance(pattern, str) else []
    if not found:
        near = difflib.get_close_matches(str(pattern), names, n=NUM_NAMED, cutoff=0.3)
        nearest = ", ".join(near or names[:NUM_NAMED])
        refuse(argument, pattern, f"a pattern that matches a community, such as {nearest}")
    return found


def chosen(names: Iterable[str], include: Patterns, exclude: Patterns) -> list[str]:
    """Return the names that take part: all or those included, without those excluded.

    Args:
        names: every name there is.
        include: patterns; None for all.
        exclude: patterns; None for none.

    Returns:
        Names in their order.

    Raises:
        ValueError: if a pattern matches nothing, or nothing is left.
    """
    names = list(names)
    taken = _any_of("include", include, names) if include is not None else set(names)
    if exclude is not None:
        taken -= _any_of("exclude", exclude, names)
        if not taken:
            given = {"include": include, "exclude": exclude}
            given = {name: patterns for name, patterns in given.items() if patterns is not None}
            refuse_together(given, "a pattern that leaves at least one community")
    return [name for name in names if name in taken]


def _any_of(argument: str, patterns: str | Sequence[str], names: list[str]) -> set[str]:
    listed = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(listed, Sequence) or not listed:
        refuse(argument, patterns, "a pattern of community names, or a list of them")
    return {name for pattern in listed for name in matching(argument, pattern, names)}


def assigned(
    argument: str, values: Mapping[str, Value], names: Iterable[str]
) -> dict[str, tuple[str, Value]]:
    """Return the pattern and value that each community gets from a mapping of patterns.

    Args:
        argument: the option that holds the mapping, for the message.
        values: pattern -> value.
        names: every name there is.

    Returns:
        ``{name: (pattern, value)}`` of the communities that a pattern matches.

    Raises:
        ValueError: if a pattern matches nothing, two match one community, or there is none.
    """
    if not values:
        refuse(argument, dict(values), "at least one pattern of community names")
    found: dict[str, tuple[str, Value]] = {}
    for pattern, value in values.items():
        for name in matching(argument, pattern, names):
            if name in found:
                both = f"{found[name][0]!r} and {pattern!r}"
                refuse(argument, both, f"patterns that do not overlap; both match {name!r}")
            found[name] = (pattern, value)
    return found
