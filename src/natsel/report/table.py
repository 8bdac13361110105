"""Rows of a table.json as a readable table: methods down, sparsities across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from natsel.report.accuracy import family_order, method_name
from natsel.report.facts import MISSING, as_real
from natsel.report.formats import NBSP, sparsity_label

FAMILY_TITLES = {
    "dynamic": "evolved during training",
    "one-shot": "selected once, after training",
    "scratch": "trained small from scratch",
    "control": "control",
    "paper": "the paper's figures",
}
PROTOCOL_TITLES = {
    "paper": "As in the paper: evolved once, then cut",
    "matched": "Matched: evolved for each sparsity",
}


@dataclass(frozen=True)
class MethodLine:
    """One line of the table.

    Attributes:
        family: as in the rows.
        method: as in the rows.
        cells: per sparsity, the indices of the rows that belong there.
    """

    family: str
    method: str
    cells: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ProtocolTable:
    """All lines of one protocol.

    Attributes:
        protocol: as in the rows, empty if they name none.
        title: for people.
        sparsities: the columns.
        lines: grouped by family, the paper's last.
    """

    protocol: str
    title: str
    sparsities: tuple[float, ...]
    lines: tuple[MethodLine, ...]


def arrange(rows: Sequence[Mapping[str, Any]]) -> list[ProtocolTable]:
    """Arrange rows into one table per protocol.

    Rows that name no protocol (a network from scratch, the paper's figures) belong to every
    protocol. Rows without a sparsity have no column and are left out.

    Args:
        rows: of a ``table.json``.

    Returns:
        One table per protocol, in the order of first appearance.
    """
    placed = [(i, r) for i, r in enumerate(rows) if as_real(r.get("sparsity")) is not None]
    protocols = list(dict.fromkeys(str(r["protocol"]) for _, r in placed if r.get("protocol")))
    tables = []
    for protocol in protocols or [""]:
        mine = [(i, r) for i, r in placed if str(r.get("protocol") or protocol) == protocol]
        sparsities = tuple(sorted({round(float(r["sparsity"]), 3) for _, r in mine}))
        names = list(dict.fromkeys(method_name(r) for _, r in mine))
        names.sort(key=lambda name: family_order(name[0]))
        lines = tuple(
            MethodLine(
                family,
                method,
                tuple(
                    tuple(
                        i
                        for i, r in mine
                        if method_name(r) == (family, method)
                        and round(float(r["sparsity"]), 3) == sparsity
                    )
                    for sparsity in sparsities
                ),
            )
            for family, method in names
        )
        title = PROTOCOL_TITLES.get(protocol, protocol)
        tables.append(ProtocolTable(protocol, title, sparsities, lines))
    return tables


def half_width(row: Mapping[str, Any]) -> float | None:
    """Return the larger side of a row's interval; ``None`` where there is no interval.

    Example:
        >>> round(half_width({"mean": 0.98, "low": 0.977, "high": 0.982}), 4)
        0.003
    """
    mean, low, high = (as_real(row.get(k)) for k in ("mean", "low", "high"))
    if mean is None or low is None or high is None or low == high:
        return None
    return max(high - mean, mean - low)


def uncut_row(rows: Sequence[Mapping[str, Any]], line: MethodLine) -> int | None:
    """Return the index of a row that tells a line's accuracy before the cut.

    Cut from one run, every row repeats that accuracy. Evolved for each sparsity, the rows differ,
    and there is no one accuracy to tell.
    """
    known = {i: as_real(rows[i].get("uncut")) for cell in line.cells for i in cell}
    told = {i: value for i, value in known.items() if value is not None}
    return next(iter(told)) if len(set(told.values())) == 1 else None


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Render the rows of a ``table.json`` as markdown, accuracies in percent.

    Args:
        rows: with ``family``, ``method``, ``sparsity``, ``mean``, ``low``, ``high``; ``protocol``
            and ``uncut`` where they are known.

    Returns:
        One table per protocol: methods grouped by family, one column per sparsity. ``±`` is the
        larger side of the 95 % interval.

    Example:
        >>> row = {"family": "dynamic", "method": "logistic", "sparsity": 0.5,
        ...        "mean": 0.9841, "low": 0.9836, "high": 0.9846}
        >>> print(to_markdown([row]))
        | family | method | 50 % |
        | --- | --- | ---: |
        | evolved during training | logistic | 98.41 ± 0.05 |
        <BLANKLINE>
        Test accuracy in percent; ± is the larger side of the 95 % interval.
        <BLANKLINE>
    """
    blocks = []
    for table in arrange(rows):
        if not table.lines:
            continue
        uncut = any(uncut_row(rows, line) is not None for line in table.lines)
        heads = [
            *(["uncut"] if uncut else []),
            *(sparsity_label(s).replace(NBSP, " ") for s in table.sparsities),
        ]
        lines = [f"### {_plain(table.title)}\n"] if table.title else []
        lines.append(_line(["family", "method", *heads]))
        lines.append(_line(["---", "---", *["---:"] * len(heads)]))
        previous = None
        for line in table.lines:
            title = FAMILY_TITLES.get(line.family, line.family)
            cells = ["; ".join(_cell(rows[i]) for i in cell) for cell in line.cells]
            told = uncut_row(rows, line)
            before = None if told is None else as_real(rows[told].get("uncut"))
            first = [_percent(before)] if uncut else []
            shown = "" if line.family == previous else _plain(title)
            lines.append(_line([shown, _plain(line.method), *first, *cells]))
            previous = line.family
        blocks.append("\n".join(lines) + "\n")
    note = "Test accuracy in percent; ± is the larger side of the 95 % interval.\n"
    return "\n".join([*blocks, note]) if blocks else "No results.\n"


def _cell(row: Mapping[str, Any]) -> str:
    width = half_width(row)
    mean = _percent(as_real(row.get("mean")))
    return mean if width is None else f"{mean} ± {_percent(width)}"


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """Keep a name from being read as markdown or HTML."""
    for character in "\\`*_[]|":
        text = text.replace(character, "\\" + character)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
