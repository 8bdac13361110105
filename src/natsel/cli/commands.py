"""How a command comes to the command line, with examples in its help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer

Command = TypeVar("Command", bound=Callable[..., Any])

EPILOG = "natsel_epilog"


def examples(*lines: str) -> str:
    """Return the end of a command's help: command lines to copy.

    Example:
        >>> print(examples("natsel inspect mlp"))
        Examples:
        <BLANKLINE>
        $ natsel inspect mlp
    """
    return "\n\n".join(["Examples:", *(f"$ {line}" for line in lines)])


def with_examples(*lines: str) -> Callable[[Command], Command]:
    """Give a command examples that its help shows."""

    def mark(command: Command) -> Command:
        setattr(command, EPILOG, examples(*lines))
        return command

    return mark


def add_command(app: typer.Typer, name: str, found: typer.Typer | Callable[..., Any]) -> None:
    """Add a command, or a group of commands, of natsel or a package that extends it.

    Packages name theirs in the entry-point group ``natsel.commands``.

    Args:
        app: is added to.
        name: of the command.
        found: a function, perhaps one :func:`with_examples`, or a typer application.
    """
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=name)
    else:
        app.command(name, epilog=getattr(found, EPILOG, None))(found)
