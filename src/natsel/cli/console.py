"""What every command shares: where words go, progress, and how errors end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from natsel.common.errors import NonFiniteError
from natsel.common.extras import MissingExtraError
from natsel.extraction import VerificationError

SHOW_AFTER = 2.0
"""Seconds before something that takes long shows a bar."""

PIPE_WIDTH = 160
"""Columns of a table that is not shown on a terminal."""

WRONG_INPUT = 2
FAILED = 1


@dataclass(frozen=True)
class Voice:
    """How a command speaks.

    Attributes:
        quiet: say nothing but the result's location.
        as_json: print one JSON object on standard output and nothing else there.
    """

    quiet: bool = False
    as_json: bool = False

    @property
    def words(self) -> Console:
        """Console for people: silent with ``--quiet`` or ``--json``."""
        quiet = self.quiet or self.as_json
        width = None if sys.stdout.isatty() else PIPE_WIDTH
        return Console(quiet=quiet, highlight=False, soft_wrap=True, width=width)

    def result(self, value: Any) -> None:
        """Print the result as JSON, if that was asked."""
        if self.as_json:
            print(json.dumps(value, allow_nan=False))

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int], None]]:
        """Show bars on standard error for whatever takes more than two seconds."""
        if self.quiet or self.as_json:
            yield lambda what, done, total: None
            return
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=console, transient=not console.is_terminal) as bars:
            tasks: dict[str, Any] = {}
            started: dict[str, float] = {}

            def update(what: str, done: int, total: int) -> None:
                start = started.setdefault(what, time.monotonic())
                if what not in tasks:
                    if time.monotonic() - start < SHOW_AFTER and total > 1:
                        return
                    if total <= 1:
                        return
                    tasks[what] = bars.add_task(what, total=total)
                bars.update(tasks[what], completed=done, total=total)

            yield update


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what went wrong into one line on standard error and an exit code.

    Exit 2 if the input is wrong (an argument, a file, a missing extra), 1 if the work failed.
    """
    try:
        yield
    except (ValueError, FileNotFoundError, MissingExtraError) as error:
        _end(error, WRONG_INPUT)
    except (NonFiniteError, VerificationError, OSError) as error:
        _end(error, FAILED)
    except KeyboardInterrupt:
        print("natsel: stopped; go on with --resume", file=sys.stderr)
        raise typer.Exit(130) from None


def _end(error: BaseException, code: int) -> None:
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"natsel: {line}", file=sys.stderr)
    raise typer.Exit(code) from None


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """Return the numbers in a comma-separated option.

    Raises:
        ValueError: if an entry is not a number.

    Example:
        >>> parse_numbers("sparsity", "0.5,0.9")
        (0.5, 0.9)
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(
            f"{name}={text!r} is not allowed: expected numbers separated by commas"
        ) from None


def parse_settings(entries: list[str]) -> dict[str, float | int]:
    """Return constants given as ``name=value``.

    Raises:
        ValueError: if an entry has another form.

    Example:
        >>> parse_settings(["rate=0.02", "patience=30"])
        {'rate': 0.02, 'patience': 30}
    """
    settings: dict[str, float | int] = {}
    for entry in entries:
        name, separator, text = entry.partition("=")
        try:
            if not separator:
                raise ValueError
            settings[name.strip()] = (
                int(text) if text.strip().lstrip("-").isdigit() else float(text)
            )
        except ValueError:
            raise ValueError(
                f"set={entry!r} is not allowed: expected name=number, such as rate=0.02"
            ) from None
    return settings
