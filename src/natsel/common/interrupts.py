"""Whether an interrupt may end this process at once, or something has to be cleared up first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_unfinished: list[object] = []


@contextmanager
def clearing_up() -> Iterator[None]:
    """Mark a block that leaves something half done unless it is left by an exception."""
    mark = object()
    _unfinished.append(mark)
    try:
        yield
    finally:
        _unfinished.remove(mark)


def has_unfinished() -> bool:
    """Say whether such a block is being run.

    Example:
        >>> with clearing_up():
        ...     has_unfinished()
        True
        >>> has_unfinished()
        False
    """
    return bool(_unfinished)
