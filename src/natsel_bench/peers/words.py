"""What came out, in words first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from natsel_bench.peers.verdict import OUTCOMES

Row = Mapping[str, Any]

LISTS = {"architecture": "common architectures", "trap": "traps"}

MEANINGS = {
    "exact": "the smaller network computes what the dense one does with all removed numbers at 0",
    "different": "it runs, keeps its shapes and computes something else: silently wrong",
    "no reference": "units that are normalised together went: no masked network equals that",
    "changed outputs": "it runs, but its output has another shape: classes are lost",
    "broken": "its forward raises",
    "refused": "the tool says, by name, why it removes nothing",
    "nothing": "nothing was removed and nothing said",
    "error": "the tool raises while it prunes",
    "time-out": "the process was killed after its limit",
}


def sentences(rows: Sequence[Row]) -> list[str]:
    """Return one sentence per list of networks and tool.

    Example:
        >>> rows = [{"tool": "t", "list": "trap", "outcome": o} for o in ("exact", "broken")]
        >>> sentences(rows)
        ['t: 1 of 2 traps exact; 1 broken.']
    """
    said = []
    for kind, words in LISTS.items():
        for tool in dict.fromkeys(row["tool"] for row in rows):
            counts = Counter(r["outcome"] for r in rows if (r["tool"], r["list"]) == (tool, kind))
            if not counts:
                continue
            rest = [f"{counts[o]} {o}" for o in OUTCOMES[1:] if counts[o]]
            first = f"{tool}: {counts['exact']} of {sum(counts.values())} {words} exact"
            said.append("; ".join((first, ", ".join(rest))) + "." if rest else f"{first}.")
    return said


def cell(row: Row | None) -> str:
    """Return how a case ended, with the difference where there is one to fear."""
    if row is None:
        return ""
    if row["outcome"] == "different" and row["difference"] is not None:
        return f"different by {row['difference']:.1%}"
    return str(row["outcome"])


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the body of the table of outcomes: networks down, tools across."""
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    found = {(row["network"], row["tool"]): row for row in rows}
    networks = dict.fromkeys(row["network"] for row in rows)
    body = [[n, *(cell(found.get((n, tool))) for tool in tools)] for n in networks]
    return ["network", *tools], body


def _costs(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    found = {(row["network"], row["tool"]): row for row in rows}
    body = []
    for network in dict.fromkeys(row["network"] for row in rows if row["list"] == "architecture"):
        line = [network]
        for tool in tools:
            row = found.get((network, tool))
            share = row.get("share") if row else None
            line.append(f"{share:.0%} in {row['busy']:.2f} s" if row and share else "")
        body.append(line)
    return ["network", *tools], body


def _times(times: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    head = ["tool", "first run in a process", "processor", "one more", "removed", "runs"]
    body = []
    for row in times:
        again = row["seconds_again"]
        body.append(
            [
                row["tool"],
                f"{row['seconds']:.2f} s" if row["outcome"] == "ran" else row["outcome"],
                f"{row['busy']:.2f} s" if row["outcome"] == "ran" else "",
                f"{again:.2f} s" if again is not None else "",
                f"{row['share']:.0%}" if row["share"] is not None else "",
                str(row["num_runs"]),
            ]
        )
    return head, body


def _markdown(content: tuple[list[str], list[list[str]]]) -> list[str]:
    head, body = content
    return [
        "| " + " | ".join(line) + " |"
        for line in (head, ["---"] * len(head), *([*map(_plain, line)] for line in body))
    ]


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the page of a result: sentences, what the words mean, tables, where it ran."""
    rows, times = result["rows"], result["times"]
    reloads = {}
    for tool in dict.fromkeys(r["tool"] for r in rows):
        tried = [r["reloads"] for r in rows if r["tool"] == tool and "reloads" in r]
        if tried:
            reloads[tool] = f"{tool} {sum(tried)} of {len(tried)}"
    lines = [f"- {sentence}" for sentence in result["sentences"]]
    lines += ["", "Saved and loaded where no pickled code may run: " + ", ".join(reloads.values())]
    lines += ["", "## How each case ended", "", *_markdown(table(rows)), ""]
    seen = {row["outcome"] for row in rows}
    lines += [f"- {o}: {MEANINGS[o]}." for o in OUTCOMES if o in seen]
    lines += ["", "## Parameters removed, and processor seconds of the first run in a process", ""]
    lines += _markdown(_costs(rows))
    if times:
        lines += ["", f"## {result['large']}, one thread, median", "", *_markdown(_times(times))]
    lines += ["", "## Why", ""]
    lines += [
        f"- {r['network']}, {r['tool']}: {r['outcome']}: {_plain(r['reason'])[:300]}"
        for r in rows
        if r["reason"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    hardware = result["hardware"]
    lines += ["", f"{versions}; {hardware['processor']}, {hardware['cores']} cores, one thread."]
    return "\n".join(lines) + "\n"
