"""What the rows of the zoo say together."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from natsel.communities.community import OUTPUT

Row = Mapping[str, Any]

OUTCOMES = {
    "exact": "all four selections compute what the dense model with zeros does",
    "wrong": "a small model computes something else, and nothing was said",
    "broken": "a small model does not run",
    "refused": "natsel removes nothing, or nothing of one selection, and says why",
    "not exported": "torch.export cannot follow the model",
    "not built": "the library cannot build it here",
    "random": "it draws random numbers in evaluation mode: nothing can be compared",
    "time-out": "it was killed after its limit",
    "memory": "it needs more memory than it may have",
    "error": "its process failed",
}
JUDGED = ("exact", "wrong", "broken", "refused", "not exported", "time-out", "error")
"""Those that say something of natsel: the model is there, and does the same twice."""


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Count how models end, and why what stays whole does.

    Args:
        rows: one a model.

    Returns:
        ``outcomes`` by count, ``judged`` (how many could be), shares ``exact`` and
        ``more_than_half`` of these, ``all_the_way`` (exact, and nothing went wrong with saving,
        training or generating), the median share that is removable, the median
        ratio of time to torch-pruning's, the slowest models, and ``reasons`` by how many models
        have one.

    Example:
        >>> rows = [{"model": m, "outcome": "exact", "removable": r} for m, r in zip("ab", (0.6, 0.2))]
        >>> found = summary(rows)
        >>> found["exact"], found["more_than_half"]
        (1.0, 0.5)
    """  # noqa: E501
    judged = [r for r in rows if r["outcome"] in JUDGED]
    shares = [r.get("removable", 0.0) for r in judged]
    ratios = [x for r in rows if (x := ratio(r)) is not None]
    times = sorted(rows, key=lambda r: -(natsel_s(r) or 0.0))
    peers = Counter(r["peer"] for r in rows if "peer" in r)
    reasons = Counter(kind for r in rows for kind in dict.fromkeys(kinds_of(r)))
    return {
        "models": len(rows),
        "judged": len(judged),
        "outcomes": dict(Counter(r["outcome"] for r in rows)),
        "exact": _share(r["outcome"] == "exact" for r in judged),
        "more_than_half": _share(share > 0.5 for share in shares),
        "all_the_way": sum(r["outcome"] == "exact" and not afterwards(r) for r in rows),
        "median_removable": statistics.median(shares) if shares else None,
        "median_ratio": statistics.median(ratios) if ratios else None,
        "peer_outcomes": dict(peers.most_common()),
        "slowest": [[r["model"], natsel_s(r)] for r in times[:10] if natsel_s(r) is not None],
        "reasons": reasons.most_common(),
    }


FINE = (None, "ok", "alone", "with the class")


def afterwards(row: Row) -> list[str]:
    """Return what went wrong beside the comparison: with saving, training, generating, the price.

    Example:
        >>> afterwards({"load": "alone", "train": "its gradients are not finite"})
        ['train: its gradients are not finite']
    """
    found = [
        f"{what}: {row[what]}"
        for what in ("load", "train", "generate")
        if row.get(what) not in FINE
    ]
    if row.get("mispriced"):
        found.append(f"priced wrongly: {', '.join(row['mispriced'])}")
    if not row.get("unchanged", True):
        found.append("the given model was changed")
    return found


def compact(row: Row) -> dict[str, Any]:
    """Return a row without the figures of each selection: how it ends, and the worst of them.

    Example:
        >>> one = {"outcome": "exact", "relative": 1e-9, "noise": 1e-12, "effect": 0.1, "share": 0.5}
        >>> compact({"model": "a/b", "selections": {"even": one}})
        {'model': 'a/b', 'selections': {'even': 'exact'}, 'worst': 1e-09}
    """  # noqa: E501
    held = row.get("selections")
    if held is None:
        return dict(row)
    worst = [found["relative"] for found in held.values() if "relative" in found]
    return {
        **row,
        "selections": {which: found["outcome"] for which, found in held.items()},
        "worst": max(worst, default=None),
    }


def _share(said: Any) -> float:
    found = list(said)
    return sum(found) / len(found) if found else 0.0


def natsel_s(row: Row) -> float | None:
    """Return the seconds of discovery and one extraction, where both were."""
    if "discover_s" not in row or "extract_s" not in row:
        return None
    seconds: float = row["discover_s"] + row["extract_s"]
    return seconds


def ratio(row: Row) -> float | None:
    """Return how many times torch-pruning's time natsel takes, where both came to an end."""
    mine, theirs = natsel_s(row), row.get("peer_s")
    return None if mine is None or not theirs else mine / theirs


def kinds_of(row: Row) -> list[str]:
    """Return why what stays whole does, without names, numbers and lines: its kind.

    Example:
        >>> kinds_of({"whole": [{"reason": "reduced at a.py:3 `x.sum(1)`", "where": ["b (3)"]}]})
        ['reduced at ...']
    """
    return [kind_of(w["reason"]) for w in row.get("whole", ()) if w["reason"] != OUTPUT]


def kind_of(reason: str) -> str:
    """Return a reason without what is of one model: places in code, names and numbers."""
    text = re.sub(r"\S+\.py:\d+ `.*`", "...", reason)
    text = re.sub(r"`[^`]*`", "...", text)
    text = re.sub(r"\b\S+\.\S+\.\S+\b", "...", text)
    return re.sub(r"\d[\d.,e+-]*", "N", text)[:160]
