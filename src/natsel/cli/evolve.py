"""``natsel evolve``: the main job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from natsel.cli.console import (
    Voice,
    clear_errors,
    need_report,
    parse_numbers,
    parse_settings,
    parse_sizes,
)
from natsel.common.errors import choose, refuse
from natsel.common.importing import names_own


def evolve(
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    dataset: Annotated[
        str, typer.Option(help="digits, mnist, cifar10 or tinyshakespeare; or module:name.")
    ] = "mnist",
    model: Annotated[
        str, typer.Option(help="mlp, cnn, resnet20 or vit; bert or llama for text; or module:name.")
    ] = "mlp",
    dynamics: Annotated[
        str, typer.Option(help="The law of selection, or module:name.")
    ] = "logistic",
    fitness: Annotated[str, typer.Option(help="What selection sees, or module:name.")] = "taylor",
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam.")] = None,
    capacity: Annotated[
        float | None, typer.Option(help="Share of the populations that may live on, in (0, 1].")
    ] = None,
    sparsity: Annotated[
        str, typer.Option(help="Where to cut for comparison, separated by commas.")
    ] = "0.35,0.4,0.45,0.5,0.6,0.7,0.8,0.9",
    hidden: Annotated[
        str | None, typer.Option(help="Widths of the MLP, separated by commas.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A constant of the evolution, such as pressure=1.5."),
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Train a plain network beside it.")] = True,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    quiet: Annotated[bool, typer.Option(help="Say nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network while its populations evolve; remove what went extinct; show the cost."""
    voice = Voice(quiet, as_json)
    with clear_errors(resumable=True):
        from natsel.models import MODELS
        from natsel.runs.evolve import RunConfig
        from natsel.runs.evolve import evolve as run_evolve

        options: dict[str, Any] = {}
        if hidden is not None:
            if names_own(model) or choose("model", model, MODELS) != "mlp":
                refuse("hidden", hidden, f"--model mlp, the {model} has none")
            options["hidden"] = parse_sizes("hidden", hidden)
        config = RunConfig(
            dataset=dataset,
            model=model,
            dynamics=dynamics,
            fitness=fitness,
            seed=seed,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            capacity=capacity,
            sparsities=parse_numbers("sparsity", sparsity),
            baselines=baselines,
            options=options,
            ecology=parse_settings(setting or []),
        )
        if report:
            need_report()
        with voice.progress() as progress:
            warn = None if quiet else _warn
            result = run_evolve(config, out, resume=resume, progress=progress, warn=warn)
        page = _report(out) if report else None
        _tell(voice, result, out, page)
        voice.result(result)


def _warn(message: str) -> None:
    print(f"natsel: {message}", file=sys.stderr)


def _report(out: Path) -> Path:
    from natsel.report import write_run_report

    return write_run_report(out)


def _tell(voice: Voice, result: dict[str, Any], out: Path, page: Path | None) -> None:
    words = voice.words
    extinct, small, evolved = result["extinct"], result["extracted"], result["evolved"]
    words.print(
        f"{extinct['count']} of {extinct['total']} populations went extinct "
        f"({extinct['share']:.1%})."
    )
    if not extinct["count"] and "outlook" in extinct:
        words.print(f"{extinct['outlook']}.")
    if result["capacity"] is not None:
        words.print(result["capacity"]["message"])
    dense = result.get("dense")
    against = f"; the plain network has {dense['accuracy']:.2%}" if dense else ""
    words.print(
        f"Test accuracy {evolved['accuracy']:.2%} before and {small['accuracy']:.2%} after they "
        f"were removed{against}."
    )
    words.print(
        f"{evolved['parameters']:,} -> {small['parameters']:,} parameters, "
        f"{evolved['macs']:,} -> {small['macs']:,} multiply-accumulates per sample."
    )
    words.print(f"Run: {out}" + (f"   Report: {page}" if page else ""))
