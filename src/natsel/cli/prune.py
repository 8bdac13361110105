"""``natsel prune``: a smaller model to a budget, and ``natsel verify``: that it is what it says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from natsel.cli.commands import with_examples
from natsel.cli.configs import (
    Keys,
    is_given,
    is_written,
    one,
    option,
    same,
    say_what_wins,
    several,
    truth,
    whole,
    word,
)
from natsel.cli.console import FAILED, Quiet, Verbose, Voice, clear_errors, parse_multiple
from natsel.common.errors import refuse_together
from natsel.common.memory import return_large

BUDGET = "macs=0.5"
PICTURE = "search.svg"
"""How a search went, in the folder of what it found."""
_NAMES = {"uncompensated": "small without compensation"}
DATA = "What to score on: a data set, a .txt, .jsonl or .parquet text, hub:NAME or module:name."
NOT_BESIDE_WEIGHTS = (
    *("budget", "sparsity", "scope", "normalize", "multiple_of", "uniform", "residual"),
    *("rotate", "bias", "compensate", "blockwise", "cache"),
    *("branches", "blocks", "kinds", "rival", "dims", "query_heads", "expert_groups"),
)
MODEL = "A reference network, a folder, hf:NAME, or module:name of what makes yours."

KEYS = Keys(
    "prune",
    {
        **same(word, "model", "budget", "scorer", "data", "scope", "normalize"),
        **same(word, "held_out", "tokenizer", "weights", "rival"),
        **same(truth, "residual", "rotate", "bias", "compensate", "measure", "uniform"),
        **same(truth, "branches", "blocks", "blockwise", "dims", "query_heads", "expert_groups"),
        **same(whole, "seed", "length", "samples", "search"),
        **same(one, "multiple_of"),
        **same(several, "include", "exclude", "kinds"),
    },
)


@with_examples(
    "natsel prune mlp --budget macs=0.5 --out small",
    "natsel prune run --scorer taylor --data digits --sparsity 0.7 --out small",
    "natsel prune hf:NAME --budget latency=0.8 --multiple-of auto --out small",
    "natsel prune ./smollm2 --data a.txt --held-out b.txt --out small",
    "natsel prune ./smollm2 --data a.txt --weights 2:4 --out sparse",
    "natsel prune ./smollm2 --data a.txt --weights 0.7 --search 99 --out sparse",
    "natsel prune ./smollm2 --data a.txt --branches --out short",
    "natsel list scorers",
    "natsel prune --config small/result.json --seed 1 --out again",
)
def prune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=MODEL)],
    out: Annotated[Path, typer.Option(help="Folder for the small model.")],
    budget: Annotated[
        str | None,
        typer.Option(
            help="sparsity=SHARE removes that share of the populations; parameters=, macs=, "
            "latency= or decode=SHARE (a token with a cache) keep that share of the cost.  "
            f"[default: {BUDGET}]",
            show_default=False,
        ),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            help="The share of the populations to remove; short for --budget sparsity=SHARE.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Single weights become 0 instead: a share of each row, 0.5, or N:M, 2:4.",
            show_default=False,
        ),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            help="What decides who survives; adaptive chooses by proof.  "
            "[default: auto for language models with --data, else magnitude]",
            show_default=False,
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help=DATA)] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Another text, to measure the perplexity on.")
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens in a window of a text.")] = 512,
    samples: Annotated[int, typer.Option(help="Windows of each text, spread over it.")] = 16,
    tokenizer: Annotated[
        str | None, typer.Option(help="A folder with the tokenizer, if the model has none.")
    ] = None,
    scope: Annotated[str, typer.Option(help="community or global.")] = "community",
    normalize: Annotated[str, typer.Option(help="rank, mean or none (global).")] = "rank",
    multiple_of: Annotated[
        str, typer.Option(help="Kept counts are multiples of this; auto measures of what.")
    ] = "1",
    uniform: Annotated[
        bool, typer.Option(help="The same width in every layer: a plain configuration.")
    ] = False,
    include: Annotated[list[str] | None, typer.Option(help="Pattern of names.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of names.")] = None,
    residual: Annotated[bool, typer.Option(help="Cut widths under a normalisation, too.")] = False,
    rotate: Annotated[
        bool,
        typer.Option(
            help="Turn the residual width to its principal axes over --data, and cut it, too: "
            "RMSNorm models; a tied head becomes a tensor of its own, which costs parameters."
        ),
    ] = False,
    bias: Annotated[
        bool, typer.Option(help="Let compensation fill biases that the configuration can say.")
    ] = False,
    kinds: Annotated[
        list[str] | None, typer.Option(help="Kinds that give, such as neuron,head,branch; all.")
    ] = None,
    dims: Annotated[
        bool, typer.Option("--dims", help="Cut dimensions inside heads instead of heads.")
    ] = False,
    query_heads: Annotated[
        bool, typer.Option("--query-heads", help="Keep keys and values that query heads share.")
    ] = False,
    expert_groups: Annotated[
        bool, typer.Option("--expert-groups", help="Cut groups that a router chooses whole.")
    ] = False,
    search: Annotated[
        int | None,
        typer.Option(
            help="Search who gives how much by evolution: N plans are judged on "
            "--data; with --weights, which share of its weights each layer gives."
        ),
    ] = None,
    rival: Annotated[
        str | None,
        typer.Option(help="What --search keeps is no worse than this, either: adaptive; slow."),
    ] = None,
    branches: Annotated[
        bool, typer.Option("--branches", help="Take out attention and MLP branches, too.")
    ] = False,
    blocks: Annotated[bool, typer.Option("--blocks", help="Take out whole blocks, too.")] = False,
    compensate: Annotated[
        bool | None,
        typer.Option(
            "--compensate/--no-compensate",
            help="Let survivors take over what the others did (needs --data; on with it).",
            show_default=False,
        ),
    ] = None,
    blockwise: Annotated[
        bool, typer.Option("--blockwise", help="One block in memory: a folder larger than it.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="With --blockwise: a folder from which a killed run goes on."),
    ] = None,
    config: Annotated[Path | None, option(KEYS)] = None,
    measure: Annotated[bool, typer.Option(help="Time both models.")] = True,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score a model, select to a budget, remove the rest, verify, and save the small model."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(voice=voice):
        return_large()
        from natsel.runs.prune import PruneConfig, budget_words
        from natsel.runs.prune import prune as run
        from natsel.runs.torchrun import of_torchrun, refuse_several

        more = {}
        if is_given(context, "sparsity") and is_written(context, "budget"):
            more, budget = {"sparsity": (sparsity, f"budget={budget!r}")}, None
        if budget is not None and sparsity is not None:
            refuse_together({"budget": budget, "sparsity": sparsity}, "one of them")
        say_what_wins(context, voice, more)
        if blockwise or weights is not None:
            refuse_several("--blockwise" if blockwise else "--weights")
        if weights is not None:
            _check_alone(context, {"weights": weights}, NOT_BESIDE_WEIGHTS)
            _prune_weights(
                voice,
                out,
                model=model,
                weights=weights,
                scorer=scorer,
                data=data,
                held_out=held_out,
                tokenizer=tokenizer,
                length=length,
                samples=samples,
                include=tuple(include or ()),
                exclude=tuple(exclude or ()),
                search=search,
                seed=seed,
            )
            return
        prune_config = PruneConfig(
            model=model,
            budget=(budget or BUDGET) if sparsity is None else f"sparsity={sparsity!r}",
            scorer=scorer,
            data=data,
            held_out=held_out,
            tokenizer=tokenizer,
            length=length,
            samples=samples,
            scope=scope,
            normalize=normalize,
            multiple_of=parse_multiple(multiple_of),
            uniform=uniform,
            include=tuple(include or ()),
            exclude=tuple(exclude or ()),
            residual=residual,
            rotate=rotate,
            bias=bias,
            kinds=tuple(kind for given in kinds or () for kind in given.split(",")),
            dims=dims,
            query_heads=query_heads,
            expert_groups=expert_groups,
            search=search,
            rival=rival,
            branches=branches,
            blocks=blocks,
            compensate=compensate,
            measure=measure,
            seed=seed,
        )
        if blockwise and (search is not None or kinds is not None):
            refuse_together({"search": search, "kinds": kinds}, "--blockwise without them")
        if cache is not None and not blockwise:
            refuse_together({"cache": str(cache)}, "--blockwise beside it")
        with of_torchrun() as processes, voice.of(processes.rank).progress() as progress:
            if blockwise:
                from natsel.runs.prune_blockwise import prune_blockwise

                result = prune_blockwise(prune_config, out, cache=cache, progress=progress)
            else:
                result = run(prune_config, out, progress=progress, processes=processes)
        if not processes.is_first:
            return
        voice.words.print(result["model"], markup=False)
        voice.words.print(budget_words(prune_config.budget), markup=False)
        voice.words.print(result["summary"], markup=False)
        if result["rounding"] is not None:
            voice.words.print(result["rounding"]["summary"], markup=False)
        if result["adaptive"] is not None:
            voice.words.print(result["adaptive"]["sentence"], markup=False)
        if result.get("levels") is not None:
            voice.words.print(result["levels"]["sentence"], markup=False)
        if blockwise:
            _say_blocks(voice, result)
        else:
            _say_verified(voice, "extracted = masked", result["verification"])
        if result["compensation"] is not None:
            voice.words.print(result["compensation"]["summary"], markup=False)
        _say_accuracy(voice, result)
        if result["quality"] is not None and result["accuracy"] is None:
            voice.words.print(result["quality"]["summary"], markup=False)
        for note in result["notes"]:
            voice.words.print(note, markup=False)
        if not blockwise:
            _say_memory(voice, result)
        if result.get("levels") is not None:
            from natsel.common.files import write_atomic
            from natsel.report.search import search_picture

            write_atomic(out / PICTURE, search_picture(result["levels"]).encode())
            voice.words.print(f"Picture of the search: {out / PICTURE}", markup=False)
        voice.words.print(f"Saved: {out}", markup=False)
        voice.result(result)


@with_examples(
    "natsel verify mlp small",
    "natsel verify run small --data digits --json",
)
def verify(
    model: Annotated[str, typer.Argument(help=MODEL)],
    small: Annotated[Path, typer.Argument(help="Folder of the small model.")],
    data: Annotated[str | None, typer.Option(help="A data set or text to compare on, too.")] = None,
    length: Annotated[int, typer.Option(help="Tokens in a window of a text.")] = 512,
    samples: Annotated[int, typer.Option(help="Windows of the text.")] = 16,
    tokenizer: Annotated[
        str | None, typer.Option(help="A folder with the tokenizer, if the model has none.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of random inputs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare a saved small model with the masked model that it was cut from."""
    voice = Voice(as_json=as_json)
    with clear_errors(voice=voice):
        from natsel.runs.prune import verify_saved

        result = verify_saved(
            model,
            small,
            data=data,
            tokenizer=tokenizer,
            length=length,
            samples=samples,
            seed=seed,
        )
        voice.words.print(result["model"], markup=False)
        if "summary" in result:
            voice.words.print(result["summary"], markup=False)
        for name, found in result.get("on", {}).items():
            _say_verified(voice, name, found)
        if (done := result.get("compensation")) is not None:
            voice.words.print(
                f"The small model was compensated: {len(done['tensors'])} tensors differ from the "
                "masked model's on purpose; they were set back for this comparison.",
                markup=False,
            )
        _say_accuracy(voice, result)
        voice.result(result)
        if not result["passed"]:
            print(f"natsel: {small} differs from the masked {model}", file=sys.stderr)
            raise typer.Exit(FAILED)


def _check_alone(context: typer.Context, given: dict[str, Any], names: tuple[str, ...]) -> None:
    """Refuse options that say nothing beside another."""
    others = {name: context.params[name] for name in names if is_given(context, name)}
    if others:
        refuse_together({**given, **others}, "--weights without them: no population is removed")


def _prune_weights(voice: Voice, out: Path, **options: Any) -> None:
    from natsel.runs.prune_weights import WeightsConfig, prune_weights

    config = WeightsConfig(**options)
    with voice.progress() as progress:
        result = prune_weights(config, out, progress=progress)
    voice.words.print(result["model"], markup=False)
    if result["shares"] is not None:
        voice.words.print(result["shares"]["sentence"], markup=False)
    voice.words.print(result["summary"], markup=False)
    if result["quality"] is not None:
        voice.words.print(result["quality"]["summary"], markup=False)
    _say_memory(voice, result)
    voice.words.print(f"Saved: {out}", markup=False)
    voice.result(result)


def _say_verified(voice: Voice, what: str, found: dict[str, Any]) -> None:
    if found["precision"] is None:
        voice.words.print(f"{what}: NOT DECIDED; {found['reason']}", markup=False)
        return
    text = (
        f"{what}: equal; in float64 they differ by {found['error']:.1e} of what the removal "
        f"changes (allowed {found['tolerance']:.0e}); in the model's own precision by "
        f"{found['max_rel_difference']:.1e} of the largest output, which is rounding"
        if found["passed"]
        else f"{what}: NOT EQUAL; {found['reason']}"
    )
    if found["inexact_rel_difference"] is not None:
        text += (
            f"; cutting widths under a normalisation changed outputs by "
            f"{found['inexact_rel_difference']:.2g} against masking them"
        )
    voice.words.print(text, markup=False)


def _say_blocks(voice: Voice, result: dict[str, Any]) -> None:
    worst = result["verification"]
    found = (
        f"by at most {worst['error']:.1e} of what the removal changes "
        f"(allowed {worst['tolerance']:.0e})"
        if worst
        else "by nothing"
    )
    text = (
        f"{len(result['blocks'])} blocks cut, each equal to the masked block: in float64 they "
        f"differ {found}; what was written was read back, bit for bit; "
        f"peak memory {result['peak_memory'] / 2**30:.2f} GiB"
    )
    voice.words.print(text, markup=False)


def _say_memory(voice: Voice, result: dict[str, Any]) -> None:
    """Say how much memory it took at most, where the system tells."""
    if peak := result["peak_memory"]:
        voice.words.print(f"peak memory {peak / 2**30:.2f} GiB", markup=False)


def _say_accuracy(voice: Voice, result: dict[str, Any]) -> None:
    if result.get("accuracy") is not None:
        for name, found in result["accuracy"].items():
            voice.words.print(
                f"{_NAMES.get(name, name)}: test accuracy {found['accuracy']:.2%} "
                f"({found['low']:.2%} to {found['high']:.2%})",
                markup=False,
            )
