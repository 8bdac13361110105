"""``natsel bench``: costs as ratios, measured side by side in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from natsel.cli.commands import examples
from natsel.cli.console import (
    Quiet,
    Verbose,
    Voice,
    clear_errors,
    parse_names,
    parse_numbers,
)
from natsel.common.errors import refuse

app = typer.Typer(help="Measure costs as ratios.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Measure costs as ratios, side by side in one process."""


@app.command(
    "step",
    epilog=examples("natsel bench step --dynamics all", "natsel bench step --network vit --quick"),
)
def step(
    dynamics: Annotated[str, typer.Option(help="A law, or all.")] = "logistic",
    network: Annotated[str, typer.Option(help="mlp, vit or all.")] = "mlp",
    compiled: Annotated[bool, typer.Option(help="Measure the compiled model too.")] = False,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per step; by default 128 (mlp) or 32 (vit).")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Blocks of 10 steps of each.")] = 30,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 leaves them.")] = 0,
    quick: Annotated[bool, typer.Option(help="See that it works; times mean nothing.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A training step with evolution against the same step without: time and peak memory."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(voice=voice):
        import torch

        from natsel_bench.step import bench_step

        if threads < 0:
            refuse("threads", threads, "a whole number >= 0")
        if threads > 0:
            torch.set_num_threads(threads)
        with voice.progress() as progress:
            result = bench_step(
                dynamics=dynamics,
                network=network,
                compiled=compiled,
                batch_size=batch_size,
                repeats=repeats,
                quick=quick,
                progress=progress,
            )
        _show(voice, result)
        voice.result(result)


@app.command("scale", epilog=examples("natsel bench scale", "natsel bench scale --network vit"))
def scale(
    network: Annotated[str, typer.Option(help="vit, llama or all.")] = "all",
    repeats: Annotated[int, typer.Option(help="Steps of each.")] = 10,
    quick: Annotated[bool, typer.Option(help="See that it works; times mean nothing.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Two processes: what evolution adds to a step under fully_shard, and that it is as in one."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(voice=voice):
        from natsel_bench.scale import SHAPES, bench_scale

        names = tuple(SHAPES) if network == "all" else (network,)
        with voice.progress() as progress:
            result = bench_scale(networks=names, repeats=repeats, quick=quick, progress=progress)
        for row in (*result["rows"], *result["paper"]):
            voice.words.print(_scale_words(row), markup=False)
        for row in result["alike"]:
            voice.words.print(_alike_words(row), markup=False)
        voice.result(result)


def _scale_words(row: dict[str, Any]) -> str:
    share = f"{row['share_of_gradient']:.4%} of the gradients"
    sent = f"{row['bytes_per_step']:,} bytes a step, {share}"
    if "model" in row:
        return f"{row['model']} (on paper): {row['populations']:,} populations, {sent}"
    return (
        f"{row['network']}: {row['populations']:,} populations, {sent}; step "
        f"{row['plain_ms']:.0f} -> {row['evolving_ms']:.0f} ms, x {row['ratio']:.3f} "
        f"({row['quartile_low']:.3f} to {row['quartile_high']:.3f}), processor time x "
        f"{row['processor_ratio']:.3f}"
    )


def _alike_words(row: dict[str, Any]) -> str:
    survivors = "the same survivors" if row["same_survivors"] else "OTHER SURVIVORS"
    apart = ", ".join(
        f"{part} {row[part + '_difference']:.1e}" for part in ("masses", "taylor", "wanda", "small")
    )
    return (
        f"{row['way']} in {row['processes']} processes against one ({row['network']}, "
        f"{row['steps']} steps): {survivors}, {row['removed']} of {row['populations']} removed; "
        f"largest relative differences: {apart}"
    )


@app.command(
    "peers",
    epilog=examples(
        "natsel bench peers --out peers --quick",
        "natsel bench peers --tool natsel --tool torch-pruning --out peers",
    ),
)
def peers(
    out: Annotated[Path, typer.Option(help="Folder for peers.json, peers.md and the cases.")],
    tools: Annotated[
        list[str] | None, typer.Option("--tool", help="A tool to run, or several; default all.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Four networks, and no large one.")] = False,
    limit: Annotated[float, typer.Option(help="Processor seconds before a case is killed.")] = 60.0,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """natsel beside torch-pruning and torch-kirigami: does it work, is it exact, how long."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel_bench.peers_table import bench_peers

        with voice.progress() as progress:
            result = bench_peers(
                out, tools=tools or (), quick=quick, limit=limit, resume=resume, progress=progress
            )
        _show(voice, result)
        voice.words.print(f"Page: {out / 'peers.md'}")
        voice.result(result)


@app.command("search", epilog=examples("natsel bench search run --data digits --repeats 2"))
def search(
    model: Annotated[str, typer.Argument(help="A trained model's folder, or hf:NAME.")],
    data: Annotated[str, typer.Option(help="A data set of images.")],
    sparsity: Annotated[float, typer.Option(help="Share of the neurons that goes.")] = 0.7,
    images: Annotated[int, typer.Option(help="Samples that are searched on.")] = 2000,
    population: Annotated[int, typer.Option(help="Candidates in a generation.")] = 16,
    repeats: Annotated[int, typer.Option(help="Generations.")] = 3,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Candidates per second of a search, against the loop that copies, masks and runs all."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(voice=voice):
        from natsel_bench.search import bench_search

        with voice.progress() as progress:
            result = bench_search(
                model,
                data,
                sparsity=sparsity,
                images=images,
                population=population,
                repeats=repeats,
                progress=progress,
            )
        _show(voice, result)
        voice.result(result)


@app.command(
    "select",
    epilog=examples("natsel bench select --sizes 1e6,1e7", "natsel bench select --quick --json"),
)
def select(
    sizes: Annotated[str, typer.Option(help="How many weights.")] = "1e6,1e7,1e8",
    dtypes: Annotated[str, typer.Option(help="float32, bfloat16.")] = "float32,bfloat16",
    repeats: Annotated[int, typer.Option(help="Rounds of interleaved runs.")] = 5,
    peers: Annotated[bool, typer.Option(help="Also what one would write instead.")] = True,
    huge: Annotated[bool, typer.Option(help="Also 1e9 weights in bfloat16: 3 GB.")] = False,
    quick: Annotated[bool, typer.Option(help="100,000 weights, to see that it works.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Selection among very many weights, in passes that read them, beside other ways."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(voice=voice):
        from natsel_bench.select import bench_select

        with voice.progress() as progress:
            result = bench_select(
                sizes=[_whole("sizes", value) for value in parse_numbers("sizes", sizes)],
                dtypes=parse_names("dtypes", dtypes),
                repeats=repeats,
                peers=peers,
                huge=huge,
                quick=quick,
                progress=progress,
            )
        _show(voice, result)
        voice.result(result)


def _whole(argument: str, value: float) -> int:
    if value != int(value):
        refuse(argument, value, "whole numbers")
    return int(value)


@app.command(
    "language",
    epilog=examples(
        "natsel bench language ./smollm2 --text input.txt --out bench",
        "natsel bench language ./smollm2 --text a.txt --only wanda --out b",
        "natsel bench language small-gpt2 --text a.txt --length 128 --out c",
    ),
)
def language(
    model: Annotated[str, typer.Argument(help="A folder with model and tokenizer, or small-gpt2.")],
    text: Annotated[Path, typer.Option(help="A text: its start calibrates, its end evaluates.")],
    out: Annotated[Path, typer.Option(help="Folder for the small models and language.json.")],
    only: Annotated[str | None, typer.Option(help="Rows, such as neurons-30,wanda.")] = None,
    length: Annotated[int, typer.Option(help="Tokens in a window.")] = 512,
    samples: Annotated[int, typer.Option(help="Windows to calibrate, and to evaluate.")] = 16,
    tokens: Annotated[int, typer.Option(help="Tokens that recovery reads.")] = 150_000,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A language model pruned by one command each: perplexity, seconds, peak memory."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel_bench.language import bench_language

        with voice.progress() as progress:
            result = bench_language(
                model,
                text,
                out,
                only=parse_names("only", only) if only is not None else (),
                length=length,
                samples=samples,
                tokens=tokens,
                resume=resume,
                progress=progress,
            )
        _show(voice, result)
        voice.result(result)


@app.command(
    "experts",
    epilog=examples(
        "natsel bench experts --text input.txt --out bench",
        "natsel bench experts --text a.txt --only reap,random --seeds 1 --out b",
    ),
)
def experts(
    text: Annotated[Path, typer.Option(help="A text: its end evaluates, its middle trains.")],
    out: Annotated[Path, typer.Option(help="Folder for the models and experts.json.")],
    seeds: Annotated[int, typer.Option(help="Models to train, minutes each.")] = 3,
    length: Annotated[int, typer.Option(help="Bytes in a window.")] = 128,
    samples: Annotated[int, typer.Option(help="Windows to calibrate, and to evaluate.")] = 64,
    steps: Annotated[int, typer.Option(help="Of training.")] = 800,
    share: Annotated[float, typer.Option(help="Of the experts that goes for good.")] = 0.5,
    only: Annotated[str | None, typer.Option(help="Rows, such as reap,random.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Small Mixtrals without half of their experts, and with fewer for a token: perplexity."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel_bench.experts import bench_experts

        with voice.progress() as progress:
            result = bench_experts(
                text,
                out,
                seeds=seeds,
                length=length,
                samples=samples,
                steps=steps,
                share=share,
                only=parse_names("only", only) if only is not None else (),
                resume=resume,
                progress=progress,
            )
        _show(voice, result)
        voice.result(result)


@app.command(
    "depth",
    epilog=examples(
        "natsel bench depth ./smollm2 --text input.txt --out bench",
        "natsel bench depth ./smollm2 --text a.txt --only dense,rate --out b",
    ),
)
def depth(
    model: Annotated[str, typer.Argument(help="A folder with a language model and tokenizer.")],
    text: Annotated[Path, typer.Option(help="A text: its end evaluates, the rest is searched on.")],
    out: Annotated[Path, typer.Option(help="Folder for the rows and depth.json.")],
    only: Annotated[str | None, typer.Option(help="Rows, such as dense,blocks-searched.")] = None,
    length: Annotated[int, typer.Option(help="Tokens in a held-out window.")] = 512,
    samples: Annotated[int, typer.Option(help="Held-out windows.")] = 16,
    search_length: Annotated[int, typer.Option(help="Tokens in a window of the search.")] = 256,
    windows: Annotated[int, typer.Option(help="Windows of the search.")] = 64,
    evaluations: Annotated[int, typer.Option(help="Plans that a search judges.")] = 320,
    fitness: Annotated[str, typer.Option(help="kl or loss.")] = "kl",
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Blocks and branches out of a language model, by scores and by search: perplexity."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel_bench.depth import bench_depth

        with voice.progress() as progress:
            result = bench_depth(
                model,
                text,
                out,
                only=parse_names("only", only) if only is not None else (),
                length=length,
                samples=samples,
                search_length=search_length,
                windows=windows,
                evaluations=evaluations,
                fitness=fitness,
                resume=resume,
                progress=progress,
            )
        _show(voice, result)
        voice.result(result)


@app.command("score", epilog=examples("natsel bench score --repeats 5"))
def score(
    repeats: Annotated[int, typer.Option(help="Pairs of a score and the bare passes.")] = 9,
    batches: Annotated[int, typer.Option(help="Batches that a score reads.")] = 16,
    quick: Annotated[bool, typer.Option(help="Only that the scores are right.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A data-aware score against the bare passes over the same batches: time and peak memory."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(voice=voice):
        from natsel_bench.score import bench_score

        with voice.progress() as progress:
            result = bench_score(repeats=repeats, batches=batches, quick=quick, progress=progress)
        _show(voice, result)
        voice.result(result)


@app.command("extract", epilog=examples("natsel bench extract --no-compile --repeats 20"))
def extract(
    repeats: Annotated[int, typer.Option(help="Passes of each model, in turn.")] = 60,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Also with torch.compile.")
    ] = True,
    quick: Annotated[bool, typer.Option(help="Only that extracted = masked.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Extracted models beside dense ones, sparse layers, and how long extraction takes."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(voice=voice):
        from natsel_bench.extract import bench_extract

        with voice.progress() as progress:
            result = bench_extract(
                repeats=repeats, compiled=compiled, quick=quick, progress=progress
            )
        _show(voice, result)
        voice.result(result)


@app.command(
    "tokens",
    epilog=examples(
        "natsel bench tokens --out tokens --images 1000",
        "natsel bench tokens --parts cifar10 --pool cls --out tokens-cls",
    ),
)
def tokens(
    out: Annotated[Path, typer.Option(help="Folder for the trained network and tokens.json.")],
    parts: Annotated[
        str, typer.Option(help="cifar10 (trained) or random (larger, timed alone).")
    ] = "cifar10,random",
    images: Annotated[int, typer.Option(help="Test images.")] = 5000,
    repeats: Annotated[int, typer.Option(help="Batches of each, in turn.")] = 15,
    pool: Annotated[
        str, typer.Option(help="What is classified: mean (of tokens) or cls (a class token).")
    ] = "mean",
    epochs: Annotated[int, typer.Option(help="That the network is trained for.")] = 2,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tokens of a vision transformer merged or dropped: images a second, right images."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(voice=voice):
        from natsel_bench.live.tokens import bench_tokens

        with voice.progress() as progress:
            result = bench_tokens(
                out,
                parts=parse_names("parts", parts),
                images=images,
                repeats=repeats,
                pool=pool,
                epochs=epochs,
                progress=progress,
            )
        _show(voice, result)
        voice.result(result)


@app.command("discovery", epilog=examples("natsel bench discovery --out discovery --quick"))
def discovery(
    out: Annotated[Path, typer.Option(help="Folder for discovery.json and a file a model.")],
    only: Annotated[str | None, typer.Option(help="Models, such as resnet50,hf-llama.")] = None,
    quick: Annotated[bool, typer.Option(help="Small networks alone.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Discovery and extraction beside torch-pruning's building and pruning: processor time."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel_bench.discovery import bench_discovery

        with voice.progress() as progress:
            result = bench_discovery(
                out,
                only=parse_names("only", only) if only is not None else (),
                quick=quick,
                resume=resume,
                progress=progress,
            )
        _show(voice, result)
        voice.result(result)


@app.command(
    "zoo",
    epilog=examples(
        "natsel bench zoo --out zoo",
        "natsel bench zoo --only 'timm/*,torchvision/resnet*' --out zoo-vision",
        "natsel bench zoo --part 2/5 --seed 7 --out fifth",
    ),
)
def zoo(
    out: Annotated[Path, typer.Option(help="Folder for zoo.json, zoo.md and a file a model.")],
    only: Annotated[str | None, typer.Option(help="Patterns of names, such as timm/*.")] = None,
    part: Annotated[str | None, typer.Option(help="K/N: one of N parts, by the seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, inputs, selections and parts.")] = 0,
    limit: Annotated[float, typer.Option(help="Processor seconds for a model.")] = 120.0,
    memory: Annotated[float, typer.Option(help="Gigabytes for a model.")] = 8.0,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Small models of what people download: removed, compared, saved, loaded, trained."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel_bench.zoo.catalog.libraries import prepare

        prepare()
        from natsel_bench.zoo.bench import bench_zoo

        with voice.progress() as progress:
            result = bench_zoo(
                out,
                only=parse_names("only", only) if only is not None else (),
                part=part,
                seed=seed,
                limit=limit,
                memory=memory,
                resume=resume,
                progress=progress,
            )
        _show(voice, result)
        voice.words.print(f"Page: {out / 'zoo.md'}")
        voice.result(result)


@app.command(
    "all",
    epilog=examples(
        "natsel bench all --quick --out bench", "natsel bench all --only step,select --out bench"
    ),
)
def all_(
    out: Annotated[Path, typer.Option(help="Folder for bench.json, bench.md and each result.")],
    only: Annotated[str | None, typer.Option(help="Names, such as step,select.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A trained model for the search; by default a small one.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="The data set of that model.")] = None,
    quick: Annotated[bool, typer.Option(help="See that everything works, in a minute.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was stopped.")] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """All benchmarks, one after the other, with one page."""
    voice = Voice(quiet, as_json, verbose)
    with clear_errors(resumable=out, voice=voice):
        from natsel_bench.all_parts import bench_all

        with voice.progress() as progress:
            result = bench_all(
                out,
                only=parse_names("only", only) if only is not None else (),
                model=model,
                data=data,
                quick=quick,
                resume=resume,
                progress=progress,
            )
        for found in result["results"].values():
            _show(voice, found)
        for name, reason in result["missing"].items():
            voice.words.print(f"{name}: not run, {reason}", markup=False)
        voice.words.print(f"Page: {out / 'bench.md'}")
        voice.result(result)


def _show(voice: Voice, result: dict[str, Any]) -> None:
    """Print what a benchmark found."""
    from natsel_bench.words import words

    found = words(result)
    if found.rows:
        shown = Table(title=found.title)
        for column in found.head:
            shown.add_column(column)
        for row in found.rows:
            shown.add_row(*row)
        voice.words.print(shown)
    for sentence in found.sentences:
        voice.words.print(sentence, markup=False)
