"""What a benchmark found, as a table and in sentences, for the terminal and for pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from natsel_bench.experts_words import rows_of
from natsel_bench.peers.words import table as peers_table
from natsel_bench.zoo.page import line
from natsel_bench.zoo.page import sentences as zoo_sentences

Result = Mapping[str, Any]


class Words(NamedTuple):
    """One benchmark in words.

    Attributes:
        title: of the table.
        head: names of the columns.
        rows: cells.
        sentences: what is said below.
    """

    title: str
    head: tuple[str, ...]
    rows: list[list[str]]
    sentences: list[str]


def words(result: Result) -> Words:
    """Return a benchmark's result in words.

    Args:
        result: of one of the ``bench`` functions.
    """
    return _WORDS[result["bench"]](result)


def to_markdown(found: Words) -> str:
    """Return a table of GitHub's Markdown with its sentences; pipes in cells are escaped.

    Example:
        >>> found = Words("Two ways", ("way", "time"), [["a|b", "1.0"]], ["Same model."])
        >>> print(to_markdown(found))
        Two ways
        <BLANKLINE>
        | way | time |
        | --- | --- |
        | a\\|b | 1.0 |
        <BLANKLINE>
        Same model.
        <BLANKLINE>
    """
    lines = [found.title, ""]
    if found.rows:
        cells = [found.head, ("---",) * len(found.head), *found.rows]
        lines += ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells]
        lines.append("")
    for sentence in found.sentences:
        lines += [sentence, ""]
    return "\n".join(lines)


def _spread(row: Mapping[str, Any], digits: int) -> list[str]:
    low, high = row["quartile_low"], row["quartile_high"]
    return [f"{row['ratio']:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"]


def _step(result: Result) -> Words:
    rows = [
        [
            f"{r['network']}, batch {r['batch_size']}",
            r["dynamics"],
            r["optimizer"],
            "compiled" if r["compiled"] else "eager",
            str(r["every"]),
            *_spread(r, 3),
            f"{r['memory_ratio']:.3f}",
            f"{r['plain_ms']:.2f} ms",
        ]
        for r in result["rows"]
    ]
    sentences = [result["compile_error"]] if result["compile_error"] else []
    sentences.append(
        "Quick: it works; too few steps for these times to mean anything."
        if result["quick"]
        else "Ratios of processor time to the plain step: medians of interleaved blocks, "
        "same process."
    )
    head = ("network", "dynamics", "optimizer", "model", "every", "time", "quartiles", "memory")
    title = f"One training step of {result['network']}"
    return Words(title, (*head, "plain"), rows, sentences)


def _select(result: Result) -> Words:
    rows = [
        [
            r["method"],
            r["dtype"],
            f"{r['size']:.0e}",
            *_spread(r, 1),
            "" if r["bytes_per_weight"] is None else f"{r['bytes_per_weight']:.2f}",
            {True: "yes", False: "no", None: ""}[r["exact_count"]],
        ]
        for r in result["rows"]
    ]
    sentences = [
        f"{name}: time grows with the weights to the power {slope:.2f}."
        for name, slope in result["exponents"].items()
    ]
    sentences.append(
        "Processor time in passes that read every weight once, one thread, medians of runs in turn."
    )
    head = ("way", "type", "weights", "passes", "quartiles", "bytes a weight", "exact count")
    title = f"{result['share']:.0%} of the weights go; pass: {result['pass']}"
    return Words(title, head, rows, sentences)


def _score(result: Result) -> Words:
    rows = [
        [
            r["network"],
            r["scorer"],
            *_spread(r, 3),
            f"{r['plain_ms']:.1f} ms",
            f"{r['extra_bytes'] / 2**20:+.1f} MiB",
        ]
        for r in result["rows"]
    ]
    return Words(
        "natsel.score against the bare passes over the same batches",
        ("network", "scorer", "time", "quartiles", "bare", "extra memory"),
        rows,
        ["Every score equals the one by brute force on a batch. Processor time."],
    )


def _extract(result: Result) -> Words:
    rows = []
    for r in result["latency"]:
        start = [r["network"], r["mode"], str(r["batch_size"]), f"{r['macs_ratio']:.3f}"]
        if r["missing"]:
            rows.append([*start, "", "", "", r["missing"]])
        else:
            rows.append([*start, *_spread(r, 3), f"{r['dense_ms']:.3g} ms", r["verdict"]])
    sentences = [
        f"csr: {r['size']}x{r['size']} at batch {r['batch_size']}, {r['sparsity']:.0%} removed: "
        f"{r['ratio']:.3f} of the dense time ({r['quartile_low']:.3f} to "
        f"{r['quartile_high']:.3f})."
        for r in result["csr"]
    ]
    sentences += [
        f"{r['network']}, {r['parameters']:,} parameters: discovery and extraction "
        f"{r['seconds']:.2f} s ({r['low']:.2f} to {r['high']:.2f}; to be reached: "
        f"{r['limit']:.0f} s), {r['seconds'] / r['layers']:.3f} s a layer."
        for r in result["depth"]
    ]
    sentences.append("Every small model equals the masked one. Processor time, one thread.")
    head = ("network", "mode", "batch", "MACs", "time", "quartiles", "dense", "verdict")
    return Words("Half removed: time relative to the dense network", head, rows, sentences)


def _search(result: Result) -> Words:
    sentence = (
        f"{result['race_per_second']:.2f} candidates per second against "
        f"{result['plain_per_second']:.2f} of the plain loop: {result['ratio']:.1f} times "
        f"({result['ratio_low']:.1f} to {result['ratio_high']:.1f}); the winner is at most "
        f"{100 * result['behind']:.2f} points behind the plain loop's."
    )
    return Words(f"Searching on {result['model']}", (), [], [sentence])


def _peers(result: Result) -> Words:
    head, body = peers_table(result["rows"])
    sentences = list(result["sentences"])
    for row in result["times"]:
        seconds = f"{row['seconds']:.2f} s" if row["outcome"] == "ran" else row["outcome"]
        sentences.append(f"{result['large']}, {row['tool']}: {seconds}")
    title = "Half of every structure removed, nothing configured but the hints"
    return Words(title, tuple(head), [list(line) for line in body], sentences)


def best_scorers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say for each kind which scorer orders it best, of those that were measured."""
    found: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        if row.get("kind") and "quality" in row:
            found.setdefault(row["kind"], []).append((row["quality"]["ratio"], row["scorer"]))
    return [
        f"{kind}s, best first: {', '.join(f'{s} {r:.3f}' for r, s in sorted(each))}"
        for kind, each in found.items()
    ]


def _language(result: Result) -> Words:
    rows, sentences = [], []
    for r in result["rows"]:
        if "missing" in r:
            sentences.append(f"{r['title']}: not run, {r['missing']}")
            continue
        quality = r["quality"]
        if (share := quality.get("won_back")) is not None:
            sentences.append(
                f"{r['title']}: {100 * share:.0f} % of the log-perplexity that pruning cost was "
                "won back"
            )
        paired = quality["paired"]
        low, high = (math.exp(paired[end]) for end in ("low", "high"))
        limits = " / ".join("" if r[k] is None else f"{r[k]:.2f}" for k in ("floor", "aim"))
        peak = r["peak_bytes"]
        rows.append(
            [
                r["title"],
                f"{quality['before']['mean']:.2f}",
                f"{quality['after']['mean']:.2f}",
                f"{quality['ratio']:.3f}",
                f"{low:.3f} to {high:.3f}",
                limits.strip(" /"),
                f"{r['seconds']:.0f} s",
                "" if peak is None else f"{peak / 2**20:,.0f} MiB",
            ]
        )
    sentences += best_scorers(result["rows"])
    config = result["config"]
    sentences.append(
        f"Windows of {config['length']} tokens, {config['samples']} to calibrate and as many to "
        "evaluate; intervals of the ratio are paired, over windows. Seconds of the clock."
    )
    head = ("what", "before", "after", "ratio", "interval", "floor / aim", "time", "peak memory")
    return Words(f"Perplexity of {config['model']}", head, rows, sentences)


def _depth(result: Result) -> Words:
    rows, sentences = [], []
    for r in result["rows"]:
        if "missing" in r:
            sentences.append(f"{r['title']}: not run, {r['missing']}")
        elif "losses" in r:
            told = ["" if r[k] is None else f"{r[k]:.3f}" for k in ("ratio", "excess")]
            out = ", ".join(map(str, r["out"]))
            seconds = f"{r['processor_seconds']:.0f} s"
            rows.append([r["title"], f"{r['perplexity']:.2f}", *told, out, seconds])
        elif "told" not in r:
            sentences.append(
                f"{1 / r['seconds']:.2f} plans a second against {1 / r['plain_seconds']:.2f} "
                f"of the loop that copies, masks and runs all: {r['ratio']:.1f} times; "
                f"divergences of both differ by {r['differs']:.1e} at most."
            )
        sentences += r.get("told", [])
        if "time" in r:
            sentences.append(f"{r['title']}: {r['time']:.3f} as measured again.")
    config = result["config"]
    if rows:
        sentences.append(
            f"Perplexity on the last {config['samples']} windows of {config['length']} tokens; "
            f"searches judge {config['evaluations']} plans on {config['windows']} windows of "
            f"{config['search_length']} from before. Processor seconds. Excess: of log-perplexity "
            "over the dense model's, relative to that by cosine."
        )
    head = ("what goes", "perplexity", "ratio", "excess", "out", "time")
    return Words(f"Depth of {config['model']}, no training", head, rows, sentences)


def _discovery(result: Result) -> Words:
    rows = [
        [
            r["model"],
            f"{r['parameters'] / 1e6:.2f} million",
            *(f"{r[k]:.2f} s" for k in ("discover_s", "extract_s")),
            "" if r["peer_s"] is None else f"{r['peer_s']:.2f} s",
            "" if r["ratio"] is None else f"{r['ratio']:.1f}",
        ]
        for r in result["rows"]
    ]
    sentences = [f"{r['model']}: {r['missing']}" for r in result["rows"] if r["missing"]]
    if result["median_ratio"] is not None:
        sentences.append(f"Median of the ratios: {result['median_ratio']:.1f}.")
    sentences.append("Processor seconds, one thread; the second run in one process.")
    head = ("model", "parameters", "discover", "extract", "torch-pruning", "ratio")
    return Words("Discovery beside torch-pruning's building and pruning", head, rows, sentences)


def _experts(result: Result) -> Words:
    head = ("what", "gone", "perplexity", "of each model", "ratio", "against", "worse, p", "models")
    config, models = result["config"], result["models"]
    first = models[0]
    sentence = (
        f"{len(models)} models of {first['layers']} layers with {first['of']} experts, "
        f"{first['k']} for a token, trained for {config['steps']} steps; {config['samples']} "
        f"windows of {config['length']} bytes to calibrate and as many to evaluate. Ratios to the "
        "whole model with paired intervals over windows; p, one-sided by changes of sign, that a "
        "row is no worse than the one it is compared with; in how many models it is worse."
    )
    return Words("Perplexity with fewer experts", head, rows_of(result["rows"]), [sentence])


def _tokens(result: Result) -> Words:
    rows, sentences = [], []

    def faster(row: Mapping[str, Any]) -> list[str]:
        ratio = row["faster"]
        return [
            f"{row['images_a_second']:,.0f}",
            f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
        ]

    for row in result["rows"]:
        paired = row.get("paired")
        lost = (
            ""
            if paired is None
            else f"{100 * paired['difference']:+.1f} ({100 * paired['low']:+.1f} to "
            f"{100 * paired['high']:+.1f})"
        )
        right = f"{100 * row['accuracy']['mean']:.1f} %" if "accuracy" in row else ""
        rows.append([row["name"], *faster(row), right, lost])
    config, trained = result["config"], result["trained"]
    for pair in result["against"]:
        sentences.append(
            f"{pair['one']} against {pair['other']}: {100 * pair['difference']:+.1f} points "
            f"({100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}), p = {pair['p_value']:.2g}"
        )
    if trained:
        sentences.append(
            f"The network: {config['epochs']} epochs of CIFAR-10, {trained['seconds']:,.0f} s, "
            f"{100 * trained['test_accuracy']:.1f} % of all test images."
        )
    if "cifar10" in config["parts"]:
        sentences.append(
            f"{config['images']:,} test images, paired (McNemar, exact); batches of "
            f"{config['batch']}."
        )
    sentences.append(
        f"Processor time of one thread, in turn with the whole model, {config['repeats']} rounds; "
        "medians with their 95 % interval."
    )
    head = ("what, share that goes", "images/s", "times the whole", "right", "points")
    return Words("Tokens of a vision transformer", head, rows, sentences)


def _zoo(result: Result) -> Words:
    rows = [line(row) for row in result["rows"]]
    head = ("model", "parameters", "ends", "removable", "what stays whole, and why", "s", "peer")
    return Words("The zoo", head, rows, zoo_sentences(result["summary"]))


_WORDS: dict[str, Callable[[Result], Words]] = {
    "step": _step,
    "select": _select,
    "score": _score,
    "extract": _extract,
    "search": _search,
    "peers": _peers,
    "language": _language,
    "depth": _depth,
    "discovery": _discovery,
    "experts": _experts,
    "tokens": _tokens,
    "zoo": _zoo,
}
