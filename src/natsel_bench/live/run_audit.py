"""``natsel live --audit``: which methods are one criterion, in one folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from natsel.common.errors import refuse
from natsel.common.files import write_atomic, write_json
from natsel.common.json_data import read_object
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.runs import environment, folder
from natsel_bench.live.auditing import ANOTHER, CHANCE, LESS, audited, numbers_of, rows_of
from natsel_bench.live.run import TEXT, opened
from natsel_bench.live.told import Told, markdown
from natsel_bench.live.ways import ways_of


def bench_audit(
    model: str,
    out: str | Path,
    *,
    methods: Sequence[str] = ("newest", "key-norm", "snapkv", "evolution"),
    shares: Sequence[float] = (0.5, 0.75),
    text: str | Path | None = None,
    num_documents: int = 24,
    length: int = 256,
    batch: int = 8,
    seed: int = 0,
    tokenizer: str | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compare whom methods keep of the same texts, which are read once.

    Args:
        model: folder of a language model with its tokenizer.
        out: folder for parts, ``table.md`` and ``result.json``.
        methods: two or more, with options as ``snapkv+kernel=7``.
        shares: of the entries that go.
        text: a text file, UTF-8; None for tinyshakespeare under ``NATSEL_DATA``.
        num_documents: places of the text that are read.
        length: tokens of each.
        batch: texts side by side.
        seed: of the places.
        tokenizer: a folder with one, where the model has none.
        resume: go on with what the folder holds.
        progress: called after every part.

    Returns:
        A row for each pair of methods at each share: overlap of survivors beside chance, rank
        correlation within heads, and what they are to each other.

    Raises:
        ValueError: if an argument is not allowed.
    """
    if len(methods) < 2:
        refuse("method", list(methods), "two methods or more, to be compared")
    sizes = {"documents": num_documents, "length": length, "batch": batch}
    for argument, value in sizes.items():
        check_whole(argument, value)
    check_whole("seed", seed, 0)
    network, cases, _ = opened(model, text, tokenizer, (TEXT,), num_documents, length, seed)
    ways = list(ways_of(network, methods, shares).values())
    config = {
        **{"kind": "live-audit", "model": model, "methods": list(methods), "shares": list(shares)},
        **{"text": None if text is None else str(text), **sizes, "seed": seed},
        "tokenizer": tokenizer,
    }
    target = Path(out)
    with folder.claim(target, config, resume):
        folder.take(target, config)
        found: dict[str, list[dict[str, Any]]] = {f"{share:g}": [] for share in shares}
        total = math.ceil(num_documents / batch)
        for number in range(total):
            progress("live: audit", number, total)
            kept = target / f"audit-{number}.json"
            if not kept.is_file():
                some = cases[TEXT][number * batch : (number + 1) * batch]
                parts = audited(network, some, ways)
                write_json(kept, {f"{s:g}": [numbers_of(a) for a in each] for s, each in parts})
            for share, texts in read_object(kept).items():
                found[share].extend(texts)
        result = {
            "kind": "live-audit",
            "config": config,
            "pairs": [
                row for share in shares for row in rows_of(methods, share, found[f"{share:g}"])
            ],
            "tied": _tied(methods, found),
            **environment.record(git=True),
        }
        write_json(target / "result.json", result)
        page = markdown(audit_tables(result), audit_sentences(result))
        write_atomic(target / "table.md", page.encode())
        progress("live: done", 1, 1)
        return result


def _tied(
    methods: Sequence[str], found: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, float]]:
    """Return of how many entries the index alone decides, by method and share."""
    shares: dict[str, dict[str, float]] = {}
    for number, method in enumerate(methods):
        for share, texts in found.items():
            tied = sum(text["tied"][number] for text in texts)
            if tied:
                total = sum(text["entries"] for text in texts)
                shares.setdefault(method, {})[share] = tied / total
    return shares


def audit_tables(result: Mapping[str, Any]) -> list[Told]:
    """Return the pairs, the most alike first."""
    pairs: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in result["pairs"]:
        pairs.setdefault(tuple(row["methods"]), []).append(row)
    first = next(iter(pairs.values()))
    head = ["method", "and", "rank correlation"]
    for row in first:
        head.append(f"both keep at {row['share']:.0%} evicted (by chance {row['chance']:.2f})")
    lines = []
    for names, rows in sorted(pairs.items(), key=lambda pair: -pair[1][0]["overlap"]["mean"]):
        relations = dict.fromkeys(row["relation"] for row in rows)
        shown = [_shown(row["overlap"]) for row in rows]
        lines.append([*names, _shown(rows[0]["spearman"]), *shown, " / ".join(relations)])
    return [Told("Who stays of those that compete", [*head, "are"], lines)]


def audit_sentences(result: Mapping[str, Any]) -> list[str]:
    """Return which methods are one criterion, and where the index decides."""
    told = []
    relations: dict[tuple[str, ...], list[str]] = {}
    for row in result["pairs"]:
        relations.setdefault(tuple(row["methods"]), []).append(row["relation"])
    for (first, second), every in relations.items():
        if len(set(every)) == 1 and every[0] not in (ANOTHER, CHANCE, LESS):
            told.append(f"{first} and {second}: {every[0]}, at every share.")
    if not told:
        told.append("No two methods are one criterion at every share.")
    for method, shares in result["tied"].items():
        where = ", ".join(
            f"{tied:.2%} of the entries at {float(s):.0%}" for s, tied in shares.items()
        )
        told.append(f"{method} ties across the cut, where the index decides: {where}.")
    return told


def _shown(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return "-"
    return "{:.2f} ({:.2f} to {:.2f})".format(*(interval[k] for k in ("mean", "low", "high")))
