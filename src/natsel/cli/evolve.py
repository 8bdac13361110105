"""``natsel evolve``: the main job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from natsel.cli.commands import with_examples
from natsel.cli.configs import (
    Keys,
    Written,
    is_given,
    is_written,
    joined,
    number,
    option,
    same,
    say_what_wins,
    truth,
    whole,
    word,
    written_of,
)
from natsel.cli.console import (
    Quiet,
    Verbose,
    Voice,
    clear_errors,
    need_report,
    parse_numbers,
    parse_settings,
    parse_sizes,
)
from natsel.common.errors import choose, refuse
from natsel.common.importing import names_own

CONSTANTS = (
    *("adaptation", "competition_every", "every", "extinction_level", "floor", "horizon"),
    *("initial", "patience", "pressure", "rate"),
)
DECIDED = ("label_smoothing", "precision")
"""What a configuration says of the training that no option does: data set and model decide it."""

KEYS = Keys(
    "evolve",
    {
        **same(word, "dataset", "model", "dynamics", "fitness"),
        **same(whole, "seed", "epochs", "batch_size"),
        **same(number, "learning_rate", "capacity"),
        **same(truth, "baselines"),
        "sparsities": ("sparsity", joined),
    },
    ("options", *CONSTANTS, *DECIDED),
)


@with_examples(
    "natsel evolve --dataset digits --out run",
    "natsel evolve --model cnn --dynamics replicator --capacity 0.3 --out run",
    "natsel evolve --dataset digits --set pressure=1.5 --out run",
    "natsel list laws",
    "natsel evolve --config run/config.json --seed 1 --out again",
)
def evolve(
    context: typer.Context,
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
    config: Annotated[Path | None, option(KEYS)] = None,
    baselines: Annotated[bool, typer.Option(help="Train a plain network beside it.")] = True,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network while its populations evolve; remove what went extinct; show the cost."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel.models import MODELS
        from natsel.runs.evolve import RunConfig
        from natsel.runs.evolve import evolve as run_evolve
        from natsel.runs.torchrun import of_torchrun

        options: dict[str, Any] = {}
        if hidden is not None:
            if names_own(model) or choose("model", model, MODELS) != "mlp":
                refuse("hidden", hidden, f"--model mlp, the {model} has none")
            options["hidden"] = parse_sizes("hidden", hidden)
        constants: dict[str, Any] = parse_settings(setting or [])
        written = written_of(context)
        if written is not None:
            options = {**_written_options(context, written), **options}
            if is_written(context, "capacity") and "capacity" in constants:
                capacity = None
            constants = _with_written(context, voice, written, constants)
        run_config = RunConfig(
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
            ecology=constants,
        )
        if written is not None:
            _check_decided(context, written, run_config.as_json())
        if report:
            need_report()
        with of_torchrun() as processes, voice.of(processes.rank).progress() as progress:
            result = run_evolve(
                run_config, out, resume=resume, progress=progress, processes=processes
            )
        if not processes.is_first:
            return
        page = _report(out) if report else None
        _tell(voice, result, out, page)
        voice.result(result)


def _written_options(context: typer.Context, written: Written) -> dict[str, Any]:
    """Return the options of the network that a configuration says."""
    held = written.rest.get("options", {})
    if not isinstance(held, dict) or set(held) - {"hidden"}:
        refuse("options", held, "a mapping that holds hidden, or nothing")
    # The widths of a perceptron are nothing to another network that was asked for.
    other = is_given(context, "model") and context.params["model"] != "mlp"
    if "hidden" not in held or other:
        return {}
    return {"hidden": parse_sizes("hidden", joined("hidden", held["hidden"]))}


def _with_written(
    context: typer.Context, voice: Voice, written: Written, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the constants that a configuration says, and over them those that were given."""
    names = {"extinction_level": "level"}
    held = {names.get(n, n): written.rest[n] for n in CONSTANTS if n in written.rest}
    before = {**held, **({"capacity": context.params["capacity"]} if "capacity" in given else {})}
    more = {
        name: (value, before[name])
        for name, value in given.items()
        if before.get(name) not in (None, value)
    }
    widths = written.rest.get("options", {}).get("hidden")
    hidden = context.params["hidden"]
    if None not in (widths, hidden) and hidden != (before_hidden := joined("hidden", widths)):
        more["hidden"] = (hidden, before_hidden)
    say_what_wins(context, voice, more)
    return {**held, **given}


def _check_decided(context: typer.Context, written: Written, found: Mapping[str, Any]) -> None:
    """Refuse what a configuration says of the training and no option can."""
    if is_given(context, "dataset") or is_given(context, "model"):
        return
    for key in DECIDED:
        if written.rest.get(key, found[key]) != found[key]:
            refuse(key, written.rest[key], f"{found[key]!r}, which data set and model decide")


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
