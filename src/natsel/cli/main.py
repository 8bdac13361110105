"""The command line: one file a command, thin."""

from __future__ import annotations

import typer

import natsel
from natsel.cli import bench, evolve, inspect, reproduce

app = typer.Typer(
    help="Prune neural networks by natural selection: evolve, select, extract, prove.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("evolve")(evolve.evolve)
app.command("inspect")(inspect.inspect)
app.add_typer(reproduce.app, name="reproduce")
app.add_typer(bench.app, name="bench")


def _version(value: bool) -> None:
    if value:
        print(natsel.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True),
) -> None:
    """Prune neural networks by natural selection."""


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
