"""Does a feature of the rank escape the plateau? Each against the score that it ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from natsel.common.intervals import paired_ratio
from natsel.common.paired import mcnemar
from natsel.live_populations.ranked import complexity
from natsel.runs.statistics import holm
from natsel_bench.live.rows import Parts
from natsel_bench.live.ways import Way

LEVEL = 0.05
ESCAPES, BELOW, SAME, UNKNOWN = "escapes", "below", "the same", "cannot be told"


class Pair(NamedTuple):
    """A way with a feature, and the way without."""

    name: str
    plain: str
    way: Way


def pairs_of(ways: Mapping[str, Way]) -> list[Pair]:
    """Return the ways that read a score through a feature, where the score itself is there, too.

    Example:
        >>> ways = {"snapkv 0.5": Way("snapkv", 0.5),
        ...     "snapkv+feature=bump 0.5": Way("snapkv", 0.5, {"feature": "bump"})}
        >>> [(pair.name, pair.plain) for pair in pairs_of(ways)]
        [('snapkv+feature=bump 0.5', 'snapkv 0.5')]
    """
    found = []
    for name, way in ways.items():
        options = {key: value for key, value in way.options.items() if key != "feature"}
        for plain, other in ways.items():
            alike = (other.method, other.share, other.options) == (way.method, way.share, options)
            if "feature" in way.options and alike:
                found.append(Pair(name, plain, way))
    return found


def recall_against_plain(
    question: str, pairs: Sequence[Pair], tasks: Mapping[str, Parts]
) -> list[dict[str, Any]]:
    """Return recall of each feature beside that of the score, over all tasks that were read.

    The tests are exact (McNemar), and Holm's for all features and shares together.
    """

    def one(pair: Pair) -> dict[str, Any]:
        right, plain = (
            [r for parts in tasks.values() for r in parts[name]["right"]]
            for name in (pair.name, pair.plain)
        )
        found = mcnemar(torch.tensor(right), torch.tensor(plain))
        return {
            "mean": sum(right) / len(right),
            "plain": sum(plain) / len(plain),
            **{name: getattr(found, name) for name in ("difference", "low", "high", "p_value")},
            "better": found.difference > 0,
            "same": right == plain,
            "n": found.n,
        }

    return _rows(question, pairs, one)


def perplexity_against_plain(pairs: Sequence[Pair], parts: Parts) -> list[dict[str, Any]]:
    """Return perplexity of each feature as a ratio to that of the score, paired by documents."""

    def one(pair: Pair) -> dict[str, Any]:
        loss, plain = (parts[name]["loss"] for name in (pair.name, pair.plain))
        same = loss == plain
        found = paired_ratio(plain, loss, [1.0] * len(loss))
        return {
            "mean": math.exp(math.fsum(loss) / len(loss)),
            "plain": math.exp(math.fsum(plain) / len(plain)),
            **{
                name: math.exp(getattr(found, of))
                for name, of in (("ratio", "difference"), ("low", "low"), ("high", "high"))
            },
            "p_value": 1.0 if same else found.p_value,
            "better": found.difference < 0,
            "same": same,
            "n": len(loss),
        }

    return _rows("text", pairs, one)


def _rows(
    measure: str, pairs: Sequence[Pair], one: Callable[[Pair], dict[str, Any]]
) -> list[dict[str, Any]]:
    rows = []
    for pair in pairs:
        feature = str(pair.way.options["feature"])
        named: dict[str, Any] = {"measure": measure, "method": pair.name.rpartition(" ")[0]}
        named |= {"feature": feature, "kappa": complexity(feature), "share": pair.way.share}
        rows.append(named | one(pair))
    for row, p_value in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = p_value
        row["verdict"] = _verdict(row)
    return rows


def _verdict(row: Mapping[str, Any]) -> str:
    if row["same"]:
        return SAME
    if row["p_holm"] >= LEVEL:
        return UNKNOWN
    return ESCAPES if row["better"] else BELOW
