"""The rows of the bench of experts in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def rows_of(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the cells of each row.

    Example:
        >>> rows_of([{"name": "whole", "part": "", "share": 0, "perplexity": 5.0, "each": [5.0]}])
        [['whole', '', '5.00', '5.00', '', '', '', '']]
    """
    found = []
    for row in rows:
        against = row.get("against")
        ratio, compared = (_interval(told.get("ratio")) for told in (row, against or {}))
        found.append(
            [
                row["name"],
                f"{row['share']:.0%}" if row["part"] else "",
                f"{row['perplexity']:.2f}",
                ", ".join(f"{value:.2f}" for value in row["each"]),
                ratio,
                f"x {compared} of {against['name']}" if against else "",
                f"{against['p_worse']:.4f}" if against else "",
                f"{against['models_worse']} of {len(row['each'])}" if against else "",
            ]
        )
    return found


def _interval(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio['mean']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
