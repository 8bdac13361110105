"""From cells to a table: the plateau, what escapes it, and the spectrum kappa(S)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from natsel.features import CLASSES, FeatureClass
from natsel.runs.statistics import Comparison, holm, mean_interval, paired_samples
from natsel_papers.plateau_cell import unpack
from natsel_papers.plateau_grid import PLATEAU

LEVEL = 0.05
SENSITIVE = 0.15
SENSITIVE_AT = 0.8
TEST = "paired t-test over held-out samples, averaged over networks; Holm over the cells"
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Outcomes:
    """Held-out predictions of a whole study.

    Attributes:
        cells: what every job returned.
        right: ``{(method, sparsity): bool [seeds, N]}``; the method "dense" is the whole network.
    """

    cells: Sequence[Mapping[str, Any]]
    right: Mapping[tuple[str, float], np.ndarray]

    @classmethod
    def of(cls, cells: Sequence[Mapping[str, Any]]) -> Outcomes:
        """Unpack the predictions of cells."""
        found: dict[tuple[str, float], list[np.ndarray]] = {}
        for cell in cells:
            named = {name: m["correct"] for name, m in cell["methods"].items()}
            for name, packed in {"dense": cell["dense"], **named}.items():
                right = unpack(packed, cell["num_held"]).numpy()
                found.setdefault((name, cell["sparsity"]), []).append(right)
        return cls(cells, {key: np.stack(value) for key, value in found.items()})

    @property
    def sparsities(self) -> list[float]:
        """The sparsities of the study, rising."""
        return sorted({sparsity for _, sparsity in self.right})

    @property
    def methods(self) -> list[str]:
        """The methods, in the order in which cells name them."""
        return list(dict.fromkeys(name for cell in self.cells for name in cell["methods"]))

    def accuracies(self, method: str, sparsity: float) -> list[float]:
        """Return one accuracy per network."""
        return [float(v) for v in self.right[method, sparsity].mean(1)]

    def compare(self, first: str, second: str, *sparsities: float) -> Comparison:
        """Compare two methods over held-out samples; of several sparsities the mean."""
        steps = [
            self.right[first, s].astype(float) - self.right[second, s].astype(float)
            for s in sparsities
        ]
        return paired_samples(np.mean(steps, axis=(0, 1)))

    def agreeing(self, first: str, second: str, sparsity: float) -> bool:
        """Tell whether the first is ahead on every single network."""
        pairs = zip(
            self.accuracies(first, sparsity), self.accuracies(second, sparsity), strict=True
        )
        return all(a > b for a, b in pairs)

    def same_survivors(self, first: str, second: str) -> bool:
        """Tell whether two methods select the same populations in every cell."""
        return all(
            cell["methods"][first]["key"] == cell["methods"][second]["key"] for cell in self.cells
        )

    def mean_of(self, method: str, sparsity: float, what: str) -> float | None:
        """Return the mean over networks of what cells hold of a method, if they hold it."""
        values = [
            c["methods"][method][what]
            for c in self.cells
            if c["sparsity"] == sparsity and what in c["methods"][method]
        ]
        return float(np.mean(values)) if values else None


def class_of(method: str) -> FeatureClass | None:
    """Return the feature class that a method's name begins with, if there is one.

    Example:
        >>> class_of("A5, equal").kappa, class_of("taylor")
        (2, None)
    """
    return CLASSES.get(method.split(",")[0])


def family_of(method: str) -> str:
    """Return which family of ``table.json`` a method belongs to."""
    made = class_of(method)
    fake = made is not None and made.family == "fake"
    return "control" if method == "random" or fake else "one-shot"


def is_cell(method: str) -> bool:
    """Tell whether a method is one of the grid's cells: a class with its (searched) weights."""
    return method in CLASSES and method != PLATEAU


def table(outcomes: Outcomes) -> Rows:
    """Return one row per method and sparsity: accuracy, escape, and how sure it is.

    Two families of tests are corrected each for itself: the feature classes (the grid's cells),
    and everything else that is compared with the plateau.
    """
    rows: Rows = []
    for sparsity in outcomes.sparsities:
        for method in outcomes.methods:
            interval = mean_interval(outcomes.accuracies(method, sparsity))
            made = class_of(method)
            row: dict[str, Any] = {
                "family": family_of(method),
                "method": method,
                "sparsity": sparsity,
                **interval._asdict(),
                "kappa": made.kappa if made is not None else None,
                "cell": is_cell(method),
                "search_accuracy": outcomes.mean_of(method, sparsity, "search_accuracy"),
            }
            if method != PLATEAU:
                found = outcomes.compare(method, PLATEAU, sparsity)
                row |= {
                    "escape": found.difference,
                    "escape_low": found.low,
                    "escape_high": found.high,
                    "p_uncorrected": found.p_value,
                    "agreeing": outcomes.agreeing(method, PLATEAU, sparsity),
                    "test": TEST,
                }
            rows.append(row)
    for family in (True, False):
        tested = [r for r in rows if "escape" in r and r["cell"] is family]
        for row, p in zip(tested, holm([r["p_uncorrected"] for r in tested]), strict=True):
            row["p_value"] = p
            sure = p < LEVEL
            row["escapes"] = sure and row["escape"] > 0 and row["agreeing"]
            row["worse"] = sure and row["escape"] < 0
    return rows


def spectrum(rows: Rows) -> Rows:
    """Return, for each sparsity, the plateau and the least complexity that escapes it."""
    found = []
    for sparsity in sorted({r["sparsity"] for r in rows}):
        here = [r for r in rows if r["sparsity"] == sparsity]
        plateau = next(r for r in here if r["method"] == PLATEAU)
        escaping = [
            r for r in here if r["cell"] and r["escapes"] and CLASSES[r["method"]].family != "fake"
        ]
        kappa = min((r["kappa"] for r in escaping), default=None)
        found.append(
            {
                "sparsity": sparsity,
                "plateau": {k: plateau[k] for k in ("mean", "low", "high", "n")},
                "kappa": kappa,
                "escaping": [r["method"] for r in sorted(escaping, key=lambda r: -r["escape"])],
                "best_escape": max((r["escape"] for r in here if r["cell"]), default=None),
            }
        )
    return found


def sensitivity(outcomes: Outcomes) -> dict[str, Any]:
    """Say whether the network is sensitive enough for a study to be read.

    Random removal at a sparsity of 0.8 (or the nearest that was run) has to cost 15 points.
    """
    at = min(outcomes.sparsities, key=lambda s: abs(s - SENSITIVE_AT))
    cost = outcomes.compare("dense", "random", at)
    return {
        "sparsity": at,
        "cost": cost.difference,
        "low": cost.low,
        "high": cost.high,
        "required": SENSITIVE,
        "sensitive": cost.difference >= SENSITIVE,
    }


def won_back(outcomes: Outcomes, method: str, sparsity: float) -> float | None:
    """Return (accuracy - plateau) / (dense - plateau), or None where the plateau loses nothing."""
    dense, plateau, mine = (
        float(np.mean(outcomes.accuracies(m, sparsity))) for m in ("dense", PLATEAU, method)
    )
    return (mine - plateau) / (dense - plateau) if dense - plateau > 0.001 else None
