"""How long computations say how far they are."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how far it is, and how far it goes."""


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""
