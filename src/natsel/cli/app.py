"""The command line: one file a command, thin; what computes is imported when it is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from natsel.cli import audit, evaluate, evolve, inspect, listing, prune, recover
from natsel.cli.commands import add_command as add_command
from natsel.cli.commands import examples
from natsel.cli.console import WRONG_INPUT, one_line
from natsel.common.importing import importable_here


class Commands(TyperGroup):
    """The commands; what is wrong with how one was called is told in one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and exit, or return what it returns without ``standalone_mode``."""
        try:
            with importable_here():  # for what a user names as module:name, and nothing else
                code = super().main(
                    args, prog_name, complete_var, False, windows_expand_args, **extra
                )
        except Exception as error:
            # Some versions of typer carry a click of their own: known by what they can do.
            if not standalone_mode or not hasattr(error, "format_message"):
                raise
            print(*_told(error), file=sys.stderr, sep="\n", end="")
            raise SystemExit(WRONG_INPUT) from None
        if not standalone_mode:
            return code
        raise SystemExit(code if isinstance(code, int) else 0)


def _told(error: Any) -> Iterator[str]:
    """Say in one line what is wrong with a call; a command without a subcommand shows its help."""
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        yield message  # empty where rich has printed the help already
        return
    context = getattr(error, "ctx", None)
    if context is not None and hasattr(context.command, "list_commands"):
        message += f" Expected one of {', '.join(context.command.list_commands(context))}."
    see = f" See {context.command_path} --help." if context is not None else ""
    yield f"natsel: {one_line(message + see)}\n"


EXAMPLES = examples(
    "natsel evolve --dataset digits --out run",
    "natsel prune mlp --budget macs=0.5 --out small",
    "natsel list scorers",
)

app = typer.Typer(
    cls=Commands,
    help="Prune neural networks by natural selection: evolve, select, extract, prove.",
    no_args_is_help=True,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
add_command(app, "evolve", evolve.evolve)
add_command(app, "inspect", inspect.inspect)
add_command(app, "list", listing.list_)
add_command(app, "prune", prune.prune)
add_command(app, "verify", prune.verify)
add_command(app, "recover", recover.recover)
add_command(app, "evaluate", evaluate.evaluate)
add_command(app, "audit", audit.audit)
for _point in sorted(entry_points(group="natsel.commands"), key=lambda point: point.name):
    add_command(app, _point.name, _point.load())


def _version(value: bool) -> None:
    if value:
        import natsel

        print(natsel.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Prune neural networks by natural selection."""
