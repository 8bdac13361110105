"""``natsel gather``: the shards of a study, joined into its table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from natsel.cli.commands import with_examples
from natsel.cli.console import Quiet, Verbose, Voice, clear_errors, need_report
from natsel_papers.cli_finish import finish_evolution, finish_plateau


@with_examples(
    "natsel gather shards/* --out evolution",
    "natsel gather round-1 shards/* --out plateau",
)
def gather(
    folders: Annotated[list[Path], typer.Argument(help="Folders of shards of one study.")],
    out: Annotated[Path, typer.Option(help="A new folder for the whole study.")],
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Join the folders that --shard wrote into the table of the whole study; nothing is run."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(voice=voice):
        from natsel_papers.gathering import gather_study

        need_report()
        with voice.progress() as progress:
            rows, summary = gather_study(folders, out, progress=progress)
        finish = finish_evolution if "best" in summary else finish_plateau
        finish(voice, rows, summary, out)
