"""From answers to rows: recall and perplexity with intervals, paired with the whole cache."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from natsel.common.intervals import mean_interval, paired_ratio, proportion_interval
from natsel.common.paired import mcnemar

READ_FROM = 0.8
"""Recall of the whole cache from which a task is read: below, it measures the model."""

Parts = Mapping[str, Mapping[str, list[Any]]]
"""By way, ``right``, ``loss`` and ``bytes_share`` of each document."""


def recall_row(task: str, question: str, way: str, found: Parts, full: Parts) -> dict[str, Any]:
    """Return the recall of one way on one task, beside that of the whole cache.

    Intervals are Wilson's over documents; the comparison is exact, by those documents on which the
    two differ (McNemar).
    """
    right, whole = found[way]["right"], full["full"]["right"]
    against = mcnemar(torch.tensor(right), torch.tensor(whole))
    share = found[way]["bytes_share"]
    return {
        "task": task,
        "question": question,
        **_named(way),
        **_interval(proportion_interval(sum(right), len(right))),
        "full": sum(whole) / len(whole),
        "against_full": _paired(against),
        "bytes_share": math.fsum(share) / len(share),
    }


def perplexity_row(way: str, found: Parts, full: Parts) -> dict[str, Any]:
    """Return the perplexity of a continuation: Student's interval of the loss over documents."""
    loss, whole = found[way]["loss"], full["full"]["loss"]
    mean = mean_interval(loss)
    pair = paired_ratio(whole, loss, [1.0] * len(loss))
    return {
        **_named(way),
        **{name: math.exp(getattr(mean, name)) for name in ("mean", "low", "high")},
        "n": mean.n,
        "full": math.exp(math.fsum(whole) / len(whole)),
        "ratio": math.exp(pair.difference),
        "ratio_low": math.exp(pair.low),
        "ratio_high": math.exp(pair.high),
        "p_value": pair.p_value,
    }


def compared(
    question: str, tasks: Sequence[str], ways: Sequence[str], parts: Mapping[str, Parts]
) -> list[dict[str, Any]]:
    """Return each method against each other at the same share, over all tasks that were read.

    Args:
        question: "after" or "inside".
        tasks: that were read.
        ways: their names.
        parts: by task.

    Returns:
        For each pair the difference in recall, its interval and the exact two-sided p-value, and
        for each way alone its recall over all tasks.
    """
    found = []
    pooled = {way: [r for t in tasks for r in parts[t][way]["right"]] for way in ways}
    for one in ways:
        row = {"question": question, **_named(one), "pairs": {}}
        row |= _interval(proportion_interval(sum(pooled[one]), len(pooled[one])))
        for other in ways:
            if other == one or _named(other)["share"] != _named(one)["share"]:
                continue
            pair = mcnemar(torch.tensor(pooled[one]), torch.tensor(pooled[other]))
            row["pairs"][_named(other)["method"]] = _paired(pair)
        found.append(row)
    return found


def _named(way: str) -> dict[str, Any]:
    method, _, share = way.rpartition(" ")
    return {"method": method, "share": float(share)}


def _interval(found: Any) -> dict[str, Any]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}


def _paired(found: Any) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("difference", "low", "high", "p_value", "n")}
