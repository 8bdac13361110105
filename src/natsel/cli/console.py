"""What every command shares: where words go, progress, and how errors end."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from natsel.cli.interrupts import STOPPED, of_output
from natsel.cli.lines import Lines
from natsel.common.errors import did_you_mean, first_line, refuse
from natsel.common.extras import MissingExtraError, require
from natsel.common.interrupts import clearing_up
from natsel.common.logs import ROOT

SHOW_AFTER = 2.0
"""Seconds before something that takes long shows a bar."""

PIPE_WIDTH = 160
"""Columns of a table that is not shown on a terminal."""

WRONG_INPUT = 2
FAILED = 1


Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        help="Tell stages on standard error; -vv tells details.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing.")]


@dataclass(frozen=True)
class Voice:
    """How a command speaks.

    Attributes:
        quiet: say nothing.
        as_json: print one JSON object on standard output and nothing else there.
        verbose: how much of what computes is told on standard error: 0 for warnings, 1 for its
            stages and what came of them, 2 for details.
    """

    quiet: bool = False
    as_json: bool = False
    verbose: int = 0

    def of(self, rank: int) -> Voice:
        """Return how a process speaks: of several that work together only the first one does."""
        return self if rank == 0 else Voice(quiet=True)

    @property
    def level(self) -> int:
        """The least level of ``logging`` that is told."""
        if self.quiet:
            return logging.ERROR
        return (logging.WARNING, logging.INFO, logging.DEBUG)[min(self.verbose, 2)]

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Tell on standard error, in lines, what the library logs."""
        logger, handler = logging.getLogger(ROOT), _Lines()
        before = logger.level
        logger.addHandler(handler)
        logger.setLevel(self.level)
        try:
            yield
        finally:
            logger.setLevel(before)
            logger.removeHandler(handler)

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
        """Show how far long work is, on standard error.

        On a terminal in bars, for what takes more than two seconds; elsewhere in a line now and
        then, see :class:`natsel.cli.lines.Lines`.
        """
        console = Console(stderr=True)
        if self.quiet or self.as_json:
            yield lambda what, done, total: None
            return
        if not console.is_terminal:
            yield Lines(_say)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        bars_shown = _LateBars(*columns, console=console, transient=True)
        with clearing_up(), bars_shown as bars:  # they hide the cursor while they are shown
            tasks: dict[str, TaskID] = {}

            def update(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=None)
                # Of a single step nobody knows how far it is: its bar pulses until it is done.
                known = total > 1 or done >= total
                bars.update(tasks[what], completed=done, total=total if known else None)

            yield update


class _Lines(logging.Handler):
    """Says a record in one line, where standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say one record."""
        try:
            _say(record.getMessage())
        except Exception:  # noqa: BLE001 - as every handler of the standard library does
            self.handleError(record)


def _say(line: str) -> None:
    print(f"natsel: {one_line(line)}", file=sys.stderr, flush=True)


class _LateBars(Bars):
    """Bars that appear once something has taken long, and never for what was done before."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is drawn now."""
        late = [task for task in self.tasks if (task.elapsed or 0.0) >= SHOW_AFTER]
        if late:
            yield self.make_tasks_table(late)


@contextmanager
def clear_errors(*, resumable: Path | None = None, voice: Voice | None = None) -> Iterator[None]:
    """Turn what went wrong into one line on standard error and an exit code.

    Exit 2 if the input is wrong (an argument, a file, a missing extra), 1 if the work failed: a
    number became NaN, an extraction could not be verified, a disk is full, memory ran out. What
    nobody has thought of is told in one line, too; with ``NATSEL_TRACEBACK`` set, in full.

    Args:
        resumable: the folder from which a command that was stopped goes on, if anything is kept.
        voice: tells what the library logs meanwhile; None for nothing of it.
    """
    try:
        with warnings.catch_warnings(), voice.hearing() if voice is not None else nullcontext():
            warnings.showwarning = _warn
            yield
    except typer.Exit:  # a RuntimeError, whose reason was told before it
        raise
    except (ValueError, FileNotFoundError, MissingExtraError) as error:
        _end(error, WRONG_INPUT)
    except (ArithmeticError, OSError, MemoryError, RuntimeError) as error:
        # RuntimeError is what torch raises when memory runs out.
        if isinstance(error, OSError) and _is_of_output(error):
            _end(RuntimeError(of_output(error)), FAILED)
        _end(error, FAILED)
    except KeyboardInterrupt:
        kept = resumable is not None and resumable.is_dir() and any(resumable.iterdir())
        more = "; the run goes on with --resume" if kept else ""
        print(f"natsel: stopped{more}", file=sys.stderr)
        raise typer.Exit(STOPPED) from None
    except (LookupError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        if os.environ.get("NATSEL_TRACEBACK"):
            raise
        told = f"{type(error).__name__}: {first_line(error)}"
        how = (
            "a file that natsel did not write, or a fault of natsel (NATSEL_TRACEBACK=1 tells more)"
        )
        _end(RuntimeError(f"{told}; {how}"), FAILED)


def _is_of_output(error: OSError) -> bool:
    """Say whether it was printing that failed: whoever writes a file names it."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE)
    return error.filename is None and error.errno in numbers


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """Say a warning as an error is said: in one line, without the line of code that said it."""
    print(f"natsel: warning: {one_line(str(message))}", file=sys.stderr)


def one_line(message: str) -> str:
    """Put a message on one line."""
    return " ".join(message.split())


def _end(error: BaseException, code: int) -> NoReturn:
    print(f"natsel: {one_line(str(error)) or type(error).__name__}", file=sys.stderr)
    raise typer.Exit(code) from None


def need_report() -> None:
    """Make sure that a report can be written, before the work that it shows.

    Raises:
        MissingExtraError: with the pip line that installs what is missing.
    """
    require("jinja2", "report")


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """Return the numbers in a comma-separated option.

    Raises:
        ValueError: if an entry is not a number.

    Example:
        >>> parse_numbers("sparsity", "0.5,0.9")
        (0.5, 0.9)
    """
    try:
        return tuple(float(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        refuse(name, text, "numbers separated by commas, such as 0.5,0.9")


def parse_names(name: str, text: str) -> tuple[str, ...]:
    """Return the names in a comma-separated option.

    Raises:
        ValueError: if an entry is empty.

    Example:
        >>> parse_names("scorers", "l1, l2")
        ('l1', 'l2')
    """
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        refuse(name, text, "names separated by commas, such as l1,l2")
    return names


def parse_sizes(name: str, text: str) -> tuple[int, ...]:
    """Return the sizes in a comma-separated option.

    Raises:
        ValueError: if an entry is not a whole number of at least 1.

    Example:
        >>> parse_sizes("hidden", "512,256")
        (512, 256)
    """
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        refuse(name, text, "whole numbers >= 1 separated by commas, such as 512,256")
    return sizes


def parse_multiple(text: str) -> int | Literal["auto"]:
    """Return a multiple, or "auto".

    Raises:
        ValueError: if it is neither.

    Example:
        >>> parse_multiple("8"), parse_multiple("auto")
        (8, 'auto')
    """
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        hint = did_you_mean(text, ["auto"])
        refuse("multiple_of", text, f"a whole number >= 1, or auto{hint}")


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
            value = int(text) if text.strip().lstrip("-").isdigit() else float(text)
        except ValueError:
            refuse("set", entry, "name=number, such as rate=0.02")
        settings[name.strip()] = value
    return settings
