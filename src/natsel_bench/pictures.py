"""The page of benchmarks: pictures and one table a question, from the results of ``bench all``.

``python -m natsel_bench.pictures results/bench/bench.json docs`` writes ``docs/benchmarks.md`` and
the pictures beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from natsel.common.files import write_atomic
from natsel.common.json_data import read_json
from natsel_bench.svg import Dot, Line, dots, lines

Row = Mapping[str, Any]
FOLDER = "bench"
COMMANDS = """```sh
natsel bench all --out runs/bench                               # measure
python -m natsel_bench.pictures results/bench/bench.json docs   # write this page
```"""
WAYS = {
    "natsel, numpy": "natsel, numpy",
    "natsel, numba": "natsel, numba",
    "torch.cat + topk": "torch.cat + topk",
    "torch.cat + kthvalue": "torch.cat + kthvalue",
    "torch.nn.utils.prune.global_unstructured": "torch.nn.utils.prune",
}
"""What the picture of selection shows, and how it is called there."""


def pictures(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the pictures as SVG, by file name.

    Args:
        results: of ``bench.json``.
    """
    return {
        "step.svg": dots(
            [_dot(r, _step_name(r), f"every {r['every']}") for r in _steps(results)],
            title="time of a training step with evolution / without",
            marked=1.0,
        ),
        "select.svg": lines(
            [
                Line(called, [(r["size"], r["ratio"]) for r in _of(results, way)])
                for way, called in WAYS.items()
            ],
            across="weights (float32)",
            up="passes over the weights",
        ),
        "score.svg": dots(
            [_dot(r, r["network"], r["scorer"]) for r in results["score"]["rows"]],
            title="time of natsel.score / of the bare passes",
            marked=1.0,
        ),
        "extract.svg": dots(
            [_dot(r, r["network"], _latency_name(r)) for r in results["extract"]["latency"]],
            title="time of the extracted network / of the dense one",
            marked=_mean(r["macs_ratio"] for r in results["extract"]["latency"]),
            least=0.0,
        ),
    }


def page(summary: Mapping[str, Any]) -> str:
    """Return the page, in markdown.

    Args:
        summary: what ``bench.json`` holds.
    """
    results = summary["results"]
    made = {**summary["hardware"], **summary["versions"]}
    machine = (
        f"{made['processor']}, {made['cores']} cores, {made['threads']} thread; "
        f"Python {made['python']}, torch {made['torch']}, numpy {made['numpy']}"
    )
    return (
        "\n\n".join(
            [
                "# Benchmarks",
                "Every figure is a ratio of two things that took turns in one process, so that the "
                "machine matters less: a median, with its quartiles. Dots are medians, bars "
                "quartiles. How each is taken, its limit and the figure to reach stand in "
                "`benchmarks/README.md`; every row is in `results/bench/bench.json`.",
                f"Measured on {machine}, beside other work. The commands:",
                COMMANDS,
                "## What does evolving cost a training step?",
                _image("step.svg", "ratio of the time of an evolving step to a plain one"),
                "The logistic law with Adam. Most of the cost is a number of calls, so that it "
                "falls with `every` and with the size of the network. Memory grows by "
                f"{_range(r['memory_ratio'] - 1 for r in results['step']['rows'])}.",
                table(
                    ("network", "model", "optimizer", "every step", "every 5", "every 10"),
                    _step_table(results["step"]["rows"]),
                ),
                "## How fast is selection among very many weights?",
                _image("select.svg", "passes over the weights against the number of weights"),
                "70 % of the weights go. The unit is one pass that reads every weight. natsel "
                "reads in a stream, so its passes do not grow with the number of weights, and it "
                "takes a byte a weight for the mask; a sort in memory takes 16 to 48, and "
                "`kthvalue` does not always remove the number that was asked for.",
                table(
                    ("way", *(f"{size:.0e} weights" for size in _sizes(results)), "bytes a weight"),
                    _select_table(results),
                ),
                "## What does a score cost?",
                _image("score.svg", "ratio of the time of a score to the bare passes"),
                "`joint` looks at pairs of populations, so it pays by their square; the others "
                "read each activation that enters a consumer once more. Every score equals the "
                "one by brute force.",
                table(("network", *_scorers(results)), _score_table(results["score"]["rows"])),
                "## Is the extracted network faster?",
                _image(
                    "extract.svg", "ratio of the time of the extracted network to the dense one"
                ),
                "Half of the populations are gone; the line is the share of multiply-accumulates "
                "that stays. Where a batch is compute-bound the time follows; at batch 1 it is the "
                "calls that count.",
                table(
                    ("network", "MACs", "eager, 1", "eager, 64", "compiled, 1", "compiled, 64"),
                    _latency_table(results["extract"]["latency"]),
                ),
                "## Do sparse weights pay without structure?",
                "A Linear of 1024 x 1024 at batch 64 in compressed rows, against the dense one.",
                table(
                    ("removed", "time", "quartiles"),
                    [
                        (f"{r['sparsity']:.0%}", f"{r['ratio']:.2f}", _quartiles(r))
                        for r in results["extract"]["csr"]
                    ],
                ),
                "## How does discovery grow with depth?",
                table(
                    ("network", "parameters", "discover and extract", "quartiles", "a layer"),
                    [
                        (
                            r["network"],
                            f"{r['parameters'] / 1e6:.1f} million",
                            f"{r['seconds']:.1f} s",
                            f"{r['low']:.1f} to {r['high']:.1f} s",
                            f"{r['seconds'] / r['layers']:.2f} s",
                        )
                        for r in results["extract"]["depth"]
                    ],
                ),
            ]
        )
        + "\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in markdown.

    Example:
        >>> print(table(("a", "b"), [("1", "2")]))
        | a | b |
        | --- | --- |
        | 1 | 2 |
    """
    every = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in every)


def write(source: Path, docs: Path) -> list[Path]:
    """Write the page and its pictures; return their paths."""
    summary = read_json(source)
    (docs / FOLDER).mkdir(exist_ok=True)
    files = {docs / FOLDER / name: text for name, text in pictures(summary["results"]).items()}
    files[docs / "benchmarks.md"] = page(summary)
    for path, text in files.items():
        write_atomic(path, text.encode())
    return list(files)


def _image(name: str, description: str) -> str:
    return f"![{description}]({FOLDER}/{name})"


def _dot(row: Row, group: str, name: str) -> Dot:
    return Dot(group, name, row["ratio"], row["quartile_low"], row["quartile_high"])


def _steps(results: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = results["step"]["rows"]
    return sorted(rows, key=lambda r: (r["network"], r["compiled"], r["optimizer"], r["every"]))


def _step_name(row: Row) -> str:
    how = "compiled" if row["compiled"] else "eager"
    return f"{row['network']}, {how}, {row['optimizer']}"


def _latency_name(row: Row) -> str:
    return f"{row['mode']}, batch {row['batch_size']}"


def _of(results: Mapping[str, Any], way: str) -> list[Row]:
    rows = results["select"]["rows"]
    return [r for r in rows if r["method"] == way and r["dtype"] == "float32"]


def _sizes(results: Mapping[str, Any]) -> list[int]:
    return sorted({r["size"] for way in WAYS for r in _of(results, way)})


def _select_table(results: Mapping[str, Any]) -> Iterable[list[str]]:
    for way, called in WAYS.items():
        found = {r["size"]: r for r in _of(results, way)}
        shown = [f"{found[s]['ratio']:.1f}" if s in found else "-" for s in _sizes(results)]
        most = found[max(found)]["bytes_per_weight"]
        yield [called, *shown, f"{most:.1f}"]


def _step_table(rows: Sequence[Row]) -> Iterable[list[str]]:
    ways = dict.fromkeys((r["network"], r["compiled"], r["optimizer"]) for r in rows)
    for network, compiled, optimizer in ways:
        mine = {
            r["every"]: r["ratio"]
            for r in rows
            if (r["network"], r["compiled"], r["optimizer"]) == (network, compiled, optimizer)
        }
        shown = [f"{mine[every]:.2f}" for every in sorted(mine)]
        yield [network, "compiled" if compiled else "eager", optimizer, *shown]


def _scorers(results: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(r["scorer"] for r in results["score"]["rows"]))


def _score_table(rows: Sequence[Row]) -> Iterable[list[str]]:
    for network in dict.fromkeys(r["network"] for r in rows):
        yield [network, *(f"{r['ratio']:.2f}" for r in rows if r["network"] == network)]


def _latency_table(rows: Sequence[Row]) -> Iterable[list[str]]:
    for network in dict.fromkeys(r["network"] for r in rows):
        mine = [r for r in rows if r["network"] == network]
        yield [network, f"{mine[0]['macs_ratio']:.2f}", *(f"{r['ratio']:.2f}" for r in mine)]


def _quartiles(row: Row) -> str:
    return f"{row['quartile_low']:.2f} to {row['quartile_high']:.2f}"


def _range(values: Iterable[float]) -> str:
    found = list(values)
    return f"{min(found):.1%} to {max(found):.1%}"


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


if __name__ == "__main__":
    for written in write(Path(sys.argv[1]), Path(sys.argv[2])):
        print(written)
