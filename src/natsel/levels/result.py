"""What a search for levels found, and what decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scipy import stats
from torch import Tensor

from natsel.common.errors import shortened
from natsel.common.paired import PairedSamples
from natsel.levels.searching import Generation
from natsel.selection.survivors import Survivors

LEVEL = 0.05
"""Of the test on held-out windows."""
POWER = 0.8
WORDS = {
    "kl": "divergence from the dense model",
    "loss": "loss",
    "error": "share of wrong predictions",
}


@dataclass(frozen=True)
class Levels:
    """How much each community gives, by evolution.

    Attributes:
        survivors: who survives: of the plan that is kept.
        found: of the plan that the search found, kept or not.
        uniform: of the plan in which each community gives the same share.
        kept: "searched", "uniform", or the name of a rival.
        history: of the generations.
        test: of the found plan against the uniform one on held-out windows, of the fitness with
            its sign turned: more is better.
        rivals: of the found plan against each of the rivals, as ``test``.
        fitness: "kl", "loss" or "error".
        values: fitness on held-out windows of the found plan and of the uniform one.
        cost: what the budget reads of the plan that is kept, in words.
        evaluations: children that were judged.
        runs: different selections that were run at all.
        tokens: places that were run, to search.
        needed: how many windows it would take to tell both plans apart; None if they were, or
            nothing at all lies between them.
        sentence: all of this in words.
    """

    survivors: Survivors
    found: Survivors
    uniform: Survivors
    kept: str
    history: tuple[Generation, ...]
    test: PairedSamples
    fitness: str
    values: tuple[float, float]
    cost: str
    evaluations: int
    runs: int
    tokens: int
    needed: int | None
    sentence: str
    rivals: Mapping[str, PairedSamples] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Levels({self.kept}; {shortened(self.sentence)})"

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            **plain_search(self),
            "rivals": {name: test._asdict() for name, test in self.rivals.items()},
            "levels": {name: [int(m.sum()), m.numel()] for name, m in self.survivors.items()},
            "out": _out(self.survivors),
            "cost": self.cost,
        }


def plain_search(found: Any) -> dict[str, Any]:
    """Return what every search over whole networks says of itself, as plain data.

    Args:
        found: a :class:`Levels`, or what has its attributes but for who survives.
    """
    return {
        "kept": found.kept,
        "fitness": found.fitness,
        "found": found.values[0],
        "uniform": found.values[1],
        "test": {"name": "changes of sign, paired over windows", **found.test._asdict()},
        "history": [asdict(generation) for generation in found.history],
        **{n: getattr(found, n) for n in ("evaluations", "runs", "tokens", "needed", "sentence")},
    }


def _out(survivors: Survivors) -> list[str]:
    """Name the branches that are out."""
    communities = survivors.communities
    if communities is None:
        return []
    return [
        branch.name
        for name, mask in survivors.items()
        for branch, alive in zip(communities[name].branches, mask.tolist(), strict=False)
        if not alive
    ]


def windows_needed(found: Tensor, uniform: Tensor) -> int | None:
    """Return how many windows would tell two plans apart, at 5 % and a power of 80 %.

    $n = ((z_{0.975} + z_{0.8}) / d)^2$ with the mean difference d in standard deviations, and at
    least the 6 below which no change of signs is rare enough.

    Args:
        found: fitness of one plan on each window.
        uniform: of the other.

    Returns:
        None if there is no difference, or one window alone to tell.

    Example:
        >>> import torch
        >>> windows_needed(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.5, 2.0, 3.4]))
        7
    """
    step = (found - uniform).double()
    if len(step) < 2 or not bool(step.any()) or not math.isfinite(float(step.sum())):
        return None
    mean, deviation = abs(float(step.mean())), float(step.std())
    if not mean > 0:
        return None
    z = float(stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(POWER))
    return max(6, math.ceil((z * deviation / mean) ** 2))


def sentence_of(
    kept: str,
    fitness: str,
    values: Sequence[float],
    test: PairedSamples,
    evaluations: int,
    needed: int | None,
) -> str:
    """Say in words what was found and what decided."""
    what = WORDS[fitness]
    both = f"{what} {values[0]:.4g} against {values[1]:.4g} of the uniform plan"
    proof = f"on {test.n} windows that no choice was made on, p = {test.p_value:.2g}"
    searched = f"{evaluations} evaluations"
    if test.p_value >= LEVEL:
        more = (
            "they do not differ at all"
            if test.difference == 0
            else "too few to tell them apart"
            + (f": it would take about {needed}" if needed is not None else "")
        )
        proof += f"; {more}"
    if kept == "searched":
        return f"Levels were searched: {both}, {proof} ({searched})."
    return f"The uniform plan stays: the search found nothing better, {both}, {proof} ({searched})."
