"""What the paper claims, and what a study says of it: holds, does not hold, cannot be told.

Every comparison was fixed before a study is run: which classes, at which sparsities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from natsel.runs.statistics import Comparison, mean_interval, paired
from natsel_papers.plateau_grid import PLATEAU
from natsel_papers.plateau_table import LEVEL, Outcomes, Rows, spectrum

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot be told"
LOW_ZONE, HIGH_ZONE = 0.65, 0.75
NEGLIGIBLE = 0.005
"""Half a point of accuracy: a difference whose interval ends below it is none worth having."""
SEARCHED = ("V1", "A5_Log6_smooth", "NL_sin", "A5", "A5_Log6")

PAPER: tuple[tuple[str, float, float, str], ...] = (
    (PLATEAU, 0.7, 0.6219, "accuracy"),
    ("A5, equal", 0.7, 0.005, "escape"),
    ("A5", 0.7, 0.046, "escape"),
    ("V1", 0.7, 0.066, "escape"),
    ("A5", 0.8, 0.026, "escape"),
    ("Bump", 0.7, 0.006, "escape"),
    ("A5", 0.6, 0.003, "escape"),
)
"""The paper's figures, (method, sparsity, value, what): ViT-Small on CIFAR-10."""


class Claim(NamedTuple):
    """One claim of the paper and its verdict.

    Attributes:
        claim: in words.
        verdict: "holds", "does not hold" or "cannot be told".
        evidence: the numbers behind it, in words.
    """

    claim: str
    verdict: str
    evidence: str


def verdict(found: Comparison, *, positive: bool = True) -> str:
    """Return whether a difference has the claimed sign, by its p-value.

    Example:
        >>> verdict(Comparison(0.02, 0.01, 0.03, 0.001, 100))
        'holds'
        >>> verdict(Comparison(0.02, -0.01, 0.05, 0.2, 100))
        'cannot be told'
    """
    if found.p_value >= LEVEL:
        return UNKNOWN
    return HOLDS if (found.difference > 0) == positive else FAILS


def claims(outcomes: Outcomes, rows: Rows) -> list[Claim]:
    """Judge every claim that the study has the cells for."""
    judges: tuple[Callable[[Outcomes, Rows], Claim | None], ...] = (
        _lemma,
        _plateau,
        _zones,
        _wiggle,
        _fake,
        _bump,
        _indicators,
        _overfitting,
        _normalisation,
    )
    return [claim for judge in judges if (claim := judge(outcomes, rows)) is not None]


def _says(found: Comparison) -> str:
    return (
        f"{100 * found.difference:+.2f} points ({100 * found.low:+.2f} to {100 * found.high:+.2f}, "
        f"p = {found.p_value:.2g})"
    )


def _has(outcomes: Outcomes, *methods: str) -> bool:
    return all(m in outcomes.methods for m in methods)


def _near(outcomes: Outcomes, sparsity: float) -> float:
    return min(outcomes.sparsities, key=lambda s: abs(s - sparsity))


def _lemma(outcomes: Outcomes, rows: Rows) -> Claim | None:
    monotone = [m for m in ("V1b", "V1d", "log-l2") if m in outcomes.methods]
    if not monotone:
        return None
    different = [m for m in monotone if not outcomes.same_survivors(m, PLATEAU)]
    count = len(outcomes.cells)
    evidence = (
        f"{', '.join(monotone)} select the very survivors of {PLATEAU} in all {count} cells"
        if not different
        else f"{', '.join(different)} select others than {PLATEAU}"
    )
    return Claim(
        "rank-monotone scorers select the same (lemma)", FAILS if different else HOLDS, evidence
    )


def _plateau(outcomes: Outcomes, rows: Rows) -> Claim | None:
    found = {s: outcomes.compare("dense", PLATEAU, s) for s in outcomes.sparsities}
    highest = found[outcomes.sparsities[-1]]
    text = "; ".join(f"S = {s:g}: {_says(c)}" for s, c in found.items())
    return Claim("the plateau lies below the dense network", verdict(highest), text)


def _zones(outcomes: Outcomes, rows: Rows) -> Claim | None:
    kappas = {r["sparsity"]: r["kappa"] for r in spectrum(rows)}
    text = ", ".join(
        f"kappa({s:g}) = {k if k is not None else 'none escapes'}" for s, k in kappas.items()
    )
    low = [k for s, k in kappas.items() if s < LOW_ZONE]
    middle = [k for s, k in kappas.items() if LOW_ZONE <= s <= HIGH_ZONE]
    high = [k for s, k in kappas.items() if s > HIGH_ZONE]
    against = any(k is not None for k in low) or any(k == 1 for k in high) or 2 in middle
    as_stated = all(k is None for k in low) and set(middle) <= {1} and set(high) <= {2}
    found = FAILS if against else HOLDS if as_stated and middle and high else UNKNOWN
    return Claim("three zones: kappa 0 below 0.65, 1 about 0.7, 2 above 0.75", found, text)


def _wiggle(outcomes: Outcomes, rows: Rows) -> Claim | None:
    if not _has(outcomes, "A5", "V1"):
        return None
    high = [s for s in outcomes.sparsities if s > HIGH_ZONE]
    if not high:
        return None
    found = outcomes.compare("A5", "V1", *high)
    at = ", ".join(f"{s:g}" for s in high)
    return Claim(
        "wiggle premium: raw features beat their smooth versions at high sparsity",
        verdict(found),
        f"A5 - V1 over S = {at}: {_says(found)}",
    )


def _fake(outcomes: Outcomes, rows: Rows) -> Claim | None:
    if not _has(outcomes, "PureMag4", "taylor"):
        return None
    high = [s for s in outcomes.sparsities if s >= LOW_ZONE]
    found = outcomes.compare("PureMag4", "taylor", *high)
    return Claim(
        "the fake control (functions of magnitude) falls below the gradient baseline",
        verdict(found, positive=False),
        f"PureMag4 - taylor over S >= 0.65: {_says(found)}",
    )


def _bump(outcomes: Outcomes, rows: Rows) -> Claim | None:
    if not _has(outcomes, "Bump", "V1"):
        return None
    at = _near(outcomes, 0.7)
    found = outcomes.compare("Bump", "V1", at)
    own = outcomes.compare("Bump", PLATEAU, at)
    return Claim(
        "a bump made by hand gains less than searched smooth features",
        verdict(found, positive=False),
        f"at S = {at:g}: Bump - V1 {_says(found)}; Bump - plateau {_says(own)}",
    )


def _indicators(outcomes: Outcomes, rows: Rows) -> Claim | None:
    if not _has(outcomes, "A5", "A5_Log6"):
        return None
    found = outcomes.compare("A5_Log6", "A5", *outcomes.sparsities)
    judged = FAILS if found.low > 0 else HOLDS if found.high < NEGLIGIBLE else UNKNOWN
    return Claim(
        "more indicators are not better (six are not half a point better than four)",
        judged,
        f"A5_Log6 - A5 over all S: {_says(found)}",
    )


def _overfitting(outcomes: Outcomes, rows: Rows) -> Claim | None:
    classes = [m for m in SEARCHED if m in outcomes.methods]
    if not classes:
        return None

    def gaps(sparsity: float) -> list[float]:
        """Return what a search promised beyond what held-out samples gave, per network."""
        found = []
        for index, cell in enumerate(c for c in outcomes.cells if c["sparsity"] == sparsity):
            held = {m: outcomes.accuracies(m, sparsity)[index] for m in (*classes, PLATEAU)}
            methods = cell["methods"]
            found.append(
                float(
                    np.mean(
                        [
                            methods[m]["search_accuracy"]
                            - methods[PLATEAU]["search_accuracy"]
                            - (held[m] - held[PLATEAU])
                            for m in classes
                        ]
                    )
                )
            )
        return found

    low, high = outcomes.sparsities[0], outcomes.sparsities[-1]
    first, last = gaps(low), gaps(high)
    promised = mean_interval(first)
    text = (
        f"a search promises {100 * promised.mean:.2f} points more than it keeps at S = {low:g} "
        f"({100 * promised.low:+.2f} to {100 * promised.high:+.2f}, {promised.n} networks), "
        f"{100 * float(np.mean(last)):.2f} at S = {high:g}"
    )
    judged = UNKNOWN if len(first) < 2 else verdict(paired(first, [0.0] * len(first)))
    return Claim("the search over-fits at low sparsity", judged, text)


def _normalisation(outcomes: Outcomes, rows: Rows) -> Claim | None:
    if not _has(outcomes, "taylor, raw and global"):
        return None
    at = _near(outcomes, 0.6)
    found = outcomes.compare(PLATEAU, "taylor, raw and global", at)
    own = outcomes.compare("taylor", "taylor, raw and global", at)
    escapes = [r["escape"] for r in rows if r["cell"] and r["sparsity"] == at]
    largest = max(escapes, default=0.0)
    judged = verdict(found)
    if judged == HOLDS and found.difference <= largest:
        judged = FAILS
    return Claim(
        "per-layer normalisation is the largest part of the gain",
        judged,
        f"at S = {at:g}: plateau - raw global Taylor {_says(found)}, Taylor ranked per layer - raw "
        f"global {_says(own)}; largest escape {100 * largest:+.2f} points",
    )
