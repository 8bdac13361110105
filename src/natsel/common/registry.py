"""One table of what has a name: laws, signals, features, networks, optimizers, budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from natsel.common.errors import choose, refuse
from natsel.common.importing import imported, names_own

T = TypeVar("T")


class Registry(dict[str, T]):
    """Entries by name, in the order in which they were added.

    It is a dictionary, so that whatever reads one reads it. What adds to it is :meth:`add`, which
    refuses a taken name.

    Args:
        argument: what users call the choice, for messages.
        entries: the first ones.

    Example:
        >>> shapes = Registry("shape", {"square": 4})
        >>> shapes.add("triangle", 3)
        3
        >>> list(shapes), shapes.find("triangle")
        (['square', 'triangle'], 3)
        >>> shapes.add("square", 5)
        Traceback (most recent call last):
        ValueError: shape='square' is already registered
        >>> shapes.find("sqare")
        Traceback (most recent call last):
        ValueError: shape='sqare' is not allowed: expected one of square, triangle (did you mean 'square'?)
        >>> with shapes.temporarily({"circle": 0}):
        ...     list(shapes)
        ['square', 'triangle', 'circle']
        >>> list(shapes)
        ['square', 'triangle']
    """  # noqa: E501

    def __init__(self, argument: str, entries: Mapping[str, T] | None = None) -> None:
        super().__init__()
        self.argument = argument
        for name, entry in (entries or {}).items():
            self.add(name, entry)

    def add(self, name: str, entry: T) -> T:
        """Give an entry a name.

        Args:
            name: not taken, and without a colon, which stands for what is imported.
            entry: what it names.

        Returns:
            The same entry.

        Raises:
            ValueError: if the name is taken or none.
        """
        if not isinstance(name, str) or not name.strip() or ":" in name:
            refuse(self.argument, name, "a name without a colon")
        if name in self:
            raise ValueError(f"{self.argument}={name!r} is already registered")
        self[name] = entry
        return entry

    def find(self, name: str, *, argument: str | None = None) -> T:
        """Return an entry.

        Args:
            name: of the entry.
            argument: what the caller's user calls the choice, if it is something else.

        Raises:
            ValueError: if there is none of this name; the nearest is named.
        """
        return self[choose(argument or self.argument, name, self)]

    def find_or_import(self, name: str, *, argument: str | None = None) -> T | Any:
        """Return an entry, or what ``module:name`` names: only for what the user wrote.

        Args:
            name: of the entry, or a module, a colon and a name in it.
            argument: what the caller's user calls the choice, if it is something else.

        Returns:
            The entry; or whatever was imported, which the caller has to look at.

        Raises:
            ValueError: if there is none of this name.

        Example:
            >>> Registry("shape", {"square": 4}).find_or_import("math:tau") > 6
            True
        """
        if names_own(name) and name not in self:
            return imported(argument or self.argument, name)
        return self.find(name, argument=argument)

    @contextmanager
    def temporarily(self, entries: Mapping[str, T] | None = None) -> Iterator[Registry[T]]:
        """Put entries in, also in the place of others, and at the end let all be as it was.

        Args:
            entries: by name. Whatever else is added or removed meanwhile is undone, too.
        """
        before = dict(self)
        try:
            self.update(entries or {})
            yield self
        finally:
            self.clear()
            self.update(before)
