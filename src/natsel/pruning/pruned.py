"""What one pruning gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from natsel.adaptive.adaptive import Adapted
from natsel.communities import Cost
from natsel.extraction import Compensation, Plan, Prediction, Verification
from natsel.quality import Quality
from natsel.selection.survivors import Survivors


@dataclass(frozen=True)
class Change:
    """What a model cost before and after.

    Attributes:
        before: parameters and multiply-accumulates per sample of the dense model.
        after: the same of the small one.
    """

    before: Cost
    after: Cost

    def __str__(self) -> str:
        return "; ".join(
            f"{name} {old:,.0f} -> {new:,.0f} ({new / max(old, 1):.1%})"
            for name, old, new in (
                ("parameters", self.before.parameters, self.after.parameters),
                ("MACs", self.before.macs, self.after.macs),
            )
        )


@dataclass(frozen=True, eq=False, repr=False)
class Pruned:
    """A pruned model, with what it is and what it cost.

    Attributes:
        small: the smaller model; the dense one was not changed.
        survivors: who is left in each community.
        plan: what rebuilds the small model from the dense one.
        verification: how far it is from the masked model, before compensation; None if that was
            not asked.
        compensation: what survivors took over, consumer by consumer; None if nothing was.
        cost: parameters and multiply-accumulates, before and after.
        quality: what the dense and the small model are worth on the held-out data; None without.
        budget: that was asked.
        prediction: costs by community, and latencies if they were measured.
        adapted: the choice of the adaptive scorer; None with any other.
        no_compensation: why there is none; empty if there is.
        tokenizer: of the model, if it was given; it is saved along.
    """

    small: nn.Module
    survivors: Survivors
    plan: Plan
    verification: Verification | None
    compensation: Compensation | None
    cost: Change
    budget: Any
    prediction: Prediction
    adapted: Adapted | None = None
    quality: Quality | None = None
    no_compensation: str = field(default="")
    tokenizer: Any = None

    def __repr__(self) -> str:
        kept = sum(int(m.count_nonzero()) for m in self.survivors.values())
        size = sum(m.numel() for m in self.survivors.values())
        parts = (
            f"{type(self.small).__name__}, {kept} of {size} populations in "
            f"{len(self.survivors)} communities",
            str(self.cost),
            self._verified(),
            "compensated" if self.compensation is not None else "not compensated",
        )
        return f"Pruned({'; '.join(parts)})"

    def summary(self) -> str:
        """Return what was asked, removed, verified and compensated, as text."""
        lines = [f"budget: {self.budget!r}", self.prediction.summary()]
        if self.survivors.rounding is not None:
            lines.append(self.survivors.rounding.summary())
        if self.adapted is not None:
            lines.append(self.adapted.sentence)
        lines.append(self._verified())
        if self.compensation is not None:
            lines.append(self.compensation.summary())
        else:
            lines.append(f"not compensated: {self.no_compensation}")
        if self.quality is not None:
            lines.append(self.quality.summary())
        return "\n".join(lines)

    def _verified(self) -> str:
        found = self.verification
        if found is None:
            return "not verified"
        return (
            f"verified: differs from the masked model by {found.error:.1e} of what the removal "
            f"changes (allowed {found.tolerance:.0e})"
        )
