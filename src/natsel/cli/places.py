"""``--on``, ``--shard`` and ``--after``: where the cells of a study run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from natsel.runs.places import Place

Workers = Annotated[int | None, typer.Option(help="Processes side by side.")]
On = Annotated[
    str | None,
    typer.Option(help="Run cells on Ray: ray (here), auto, HOST:PORT or ray://HOST:PORT."),
]
ShardOf = Annotated[
    str | None,
    typer.Option("--shard", help="K/N: run every N-th cell only; natsel gather joins the folders."),
]
After = Annotated[
    Path | None, typer.Option(help="A folder of this study whose finished cells are taken over.")
]


def place_here(workers: int | None, on: str | None, shard: str | None, after: Path | None) -> Place:
    """Return where cells run.

    Raises:
        ValueError: if an option is not allowed.
    """
    from natsel.runs.places import place_of

    return place_of(workers, on, shard, after)
