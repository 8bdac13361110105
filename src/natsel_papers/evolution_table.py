"""What the trainings of the reproduction say: rows, paired tests, sentences and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from natsel.runs import environment
from natsel.runs.cuts import family_of
from natsel.runs.networks import reduced
from natsel.runs.oneshot import METHODS
from natsel.runs.statistics import holm, mean_interval, paired

if TYPE_CHECKING:
    from natsel_papers.reproduce_evolution import Cell

PAPER = {0.0: (0.98, 0.98, 0.98), 0.35: (0.955, 0.955, 0.955), 0.5: (0.8845, 0.883, 0.886)}
"""Sparsity -> (middle, low, high) as the paper states them; its range is over dynamics."""

CLAIMS = ((0.5, 0.982, 0.985), (0.8, 0.978, 0.983), (0.9, 0.965, 0.976))
"""(sparsity, floor, aim) that the best dynamic has to reach."""

TEST = "two-sided paired t-test over seeds, Holm-corrected over all cells compared"
PLANNED_TEST = (
    "two-sided paired t-test over seeds, Holm-corrected over the cells with a floor and an aim"
)


def table(
    results: Mapping[Cell, dict[str, Any]],
    *,
    widths: Sequence[int],
    sparsities: Sequence[float],
    dynamics: Sequence[str],
) -> list[dict[str, Any]]:
    """Turn the results of all trainings into rows: one per method, protocol and sparsity.

    Every figure is of the test split; figures of the validation split are named ``validation``.

    Args:
        results: what each training gave.
        widths: hidden widths of the dense network.
        sparsities: where networks were cut, in the order of the rows.
        dynamics: which laws, in the order of the rows.

    Returns:
        The rows, each cut of an evolved network compared with its size from scratch.
    """
    rows: list[dict[str, Any]] = []

    def of(kind: str, **chosen: Any) -> list[dict[str, Any]]:
        return [
            result
            for cell, result in results.items()
            if cell.kind == kind and all(getattr(cell, k) == v for k, v in chosen.items())
        ]

    def add(family: str, method: str, sparsity: float, values: list[float], **more: Any) -> None:
        interval = mean_interval(values)
        row = {"family": family, "method": method, "sparsity": sparsity, **interval._asdict()}
        rows.append({**row, "seeds": values, **more})

    dense = of("dense")
    add("scratch", f"dense {_size(widths)}", 0.0, _uncut(dense))
    for method in METHODS:
        for sparsity in sparsities:
            values = [r["cuts"][method][str(sparsity)]["test"] for r in dense]
            add(family_of(method), method, sparsity, values)
    for sparsity in sparsities:
        found = of("scratch", sparsity=sparsity)
        size = _size(reduced(widths, sparsity))
        add("scratch", "from scratch", sparsity, _uncut(found), size=size)
    for law in dynamics:
        found = of("paper", dynamics=law)
        add("dynamic", law, 0.0, _uncut(found), protocol="paper", **_extinct(found))
        for sparsity in sparsities:
            shown = {"uncut": _mean(_uncut(found)), **_extinct(found)}
            add("dynamic", law, sparsity, _cut(found, sparsity), protocol="paper", **shown)
        for sparsity in sparsities:
            found = of("matched", dynamics=law, sparsity=sparsity)
            if not found:
                continue
            add(
                "dynamic",
                law,
                sparsity,
                _cut(found, sparsity),
                protocol="matched",
                uncut=_mean(_uncut(found)),
                **_extinct(found),
                capacity=1.0 - sparsity,
                pressure=_mean([r["pressure"] for r in found]),
                validation=_mean(_cut(found, sparsity, "validation")),
            )
    compare(rows)
    for sparsity, (middle, low, high) in PAPER.items():
        row = {"family": "paper", "method": "Khan & Shah 2026", "sparsity": sparsity}
        rows.append({**row, "mean": middle, "low": low, "high": high, "n": None})
    return rows


def _uncut(results: Sequence[dict[str, Any]]) -> list[float]:
    return [r["uncut"]["test"] for r in results]


def _cut(results: Sequence[dict[str, Any]], sparsity: float, split: str = "test") -> list[float]:
    return [r["cuts"][str(sparsity)][split] for r in results]


def _extinct(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {"extinct_share": _mean([r["extinct_share"] for r in results])}


def _mean(values: Sequence[float]) -> float:
    return mean_interval(values).mean


def _size(widths: Sequence[int]) -> str:
    return "-".join(str(width) for width in widths)


def compare(rows: list[dict[str, Any]]) -> None:
    """Compare every cut of an evolved network with the same size from scratch, in place."""
    scratch = {r["sparsity"]: r for r in rows if r["method"] == "from scratch"}
    compared = [r for r in rows if r["family"] == "dynamic" and r["sparsity"] in scratch]
    tests = [paired(r["seeds"], scratch[r["sparsity"]]["seeds"]) for r in compared]
    for row, test, p_value in zip(compared, tests, holm([t.p_value for t in tests]), strict=True):
        row |= {
            "compared_with": "from scratch",
            "test": TEST,
            "difference": test.difference,
            "difference_low": test.low,
            "difference_high": test.high,
            "p_value": p_value,
            "better": p_value < 0.05 and test.difference > 0,
            "worse": p_value < 0.05 and test.difference < 0,
        }


def summarize(rows: list[dict[str, Any]], best: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Put the table into sentences and verdicts.

    Args:
        rows: from :func:`table`.
        best: the law that was best on the validation split.
        config: of the grid.

    Returns:
        The content of ``summary.json``, without times.
    """
    dense = next(r for r in rows if r["method"].startswith("dense "))
    size = dense["method"].removeprefix("dense ")
    claims = []
    uncut = [r for r in rows if r["family"] == "dynamic" and r["sparsity"] == 0.0]
    worst = min(uncut, key=lambda r: r["mean"])
    claims.append(
        _claim(f"dense accuracy of every dynamic (lowest: {worst['method']})", worst, 0.978, 0.984)
    )
    matched = {(r["method"], r["sparsity"]): r for r in rows if r.get("protocol") == "matched"}
    planned = [claim for claim in CLAIMS if (best, claim[0]) in matched]
    scratch = {r["sparsity"]: r for r in rows if r["method"] == "from scratch"}
    tests = [paired(matched[best, s]["seeds"], scratch[s]["seeds"]) for s, _, _ in planned]
    p_values = holm([test.p_value for test in tests])
    sentences = []
    if (best, 0.5) in matched and config.get("dataset") == "mnist":
        sentences.append(
            f"Half of the neurons go extinct and {matched[best, 0.5]['mean']:.2%} stay right "
            f"({best}); the paper cuts half and keeps 88.3 to 88.6 %."
        )
    for (sparsity, floor, aim), p_value in zip(planned, p_values, strict=True):
        row = matched[best, sparsity]
        words = f"{best}, matched pressure, {sparsity:.0%} removed"
        claims.append({**_claim(words, row, floor, aim), "p_value": p_value})
        told = p_value < 0.05
        word = (
            "not told from"
            if not told
            else "better than"
            if row["difference"] > 0
            else "worse than"
        )
        sentences.append(
            f"{sparsity:.0%} of the neurons removed, no fine-tuning: {best} keeps "
            f"{row['mean']:.2%} ({row['low']:.2%} to {row['high']:.2%}), {word} a network of that "
            f"size trained from scratch (difference {row['difference'] * 100:+.2f} points, "
            f"p = {p_value:.2g}; {row['p_value']:.2g} when corrected over every cell of the table)."
        )
    return {
        "title": "Pruning as Evolution, reproduced",
        "sentences": sentences,
        "best": best,
        "test": TEST,
        "planned_test": PLANNED_TEST,
        "claims": claims,
        "config": dict(config),
        **environment.record(git=True),
        "notes": [
            f"Mean of {dense['n']} seeds with 95 % Student intervals, test split; settings and the "
            "best law were chosen on a validation split taken from the training part.",
            "Matched pressure: one run per sparsity whose carrying capacity is what should remain; "
            "the paper's protocol cuts one network per law to every sparsity.",
            "From scratch: a network of the reduced size, the same number of steps and the same "
            f"recipe. One-shot: the plainly trained {size} network, cut without fine-tuning.",
            "The law that is best on the validation split has a floor and an aim at "
            f"{_listed(CLAIMS)}. In the claims and sentences: {PLANNED_TEST}. "
            f"In the table: {TEST}.",
            "The paper states its figures without intervals or seeds.",
        ],
    }


def _listed(claims: Sequence[tuple[float, float, float]]) -> str:
    return ", ".join(f"{sparsity:.0%}" for sparsity, _, _ in claims)


def _claim(words: str, row: dict[str, Any], floor: float, aim: float) -> dict[str, Any]:
    reached = "aim reached" if row["mean"] >= aim else "floor reached"
    return {
        "claim": words,
        "floor": floor,
        "aim": aim,
        "value": row["mean"],
        "low": row["low"],
        "high": row["high"],
        "p_value": row.get("p_value"),
        "verdict": reached if row["mean"] >= floor else "below the floor",
    }
