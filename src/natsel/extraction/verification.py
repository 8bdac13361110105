"""What a comparison of an extracted model with the masked one says."""

from __future__ import annotations

from dataclasses import dataclass

from natsel.common.errors import shortened


class VerificationError(ArithmeticError):
    """The extracted model does not compute what the masked one does."""


@dataclass(frozen=True)
class Verification:
    """How far the extracted model is from the masked one.

    Float64 decides, whatever the precision of the model and whatever casts its forward names:
    every operator reads its tensors in float64. The model's own precision is told besides: what
    the two differ by there is rounding, since sums of fewer numbers are rounded otherwise.

    Attributes:
        max_abs_difference: largest absolute difference over all outputs, in the model's precision.
        max_rel_difference: the same, relative to the largest absolute output.
        max_abs_difference_float64: largest absolute difference when both run in float64; None
            where the model cannot.
        effect: largest absolute difference that masking makes to the dense model, in float64.
        error: largest difference in float64 relative to the effect of the removal; where it has
            none on these inputs, the same on louder weights of the same structure.
        tolerance: what ``error`` may be.
        passed: whether it is, with outputs of one shape and finite.
        precision: of the numbers that decided: "float64"; None where nothing could be decided.
        inexact_rel_difference: the same, to the network in which channels under a normalisation
            are masked instead of removed: what removing them changes; None if there are none.
        reason: why it did not pass; empty if it did.
    """

    max_abs_difference: float
    max_rel_difference: float
    max_abs_difference_float64: float | None
    tolerance: float
    passed: bool
    inexact_rel_difference: float | None = None
    effect: float = 0.0
    error: float = 0.0
    precision: str | None = "float64"
    reason: str = ""

    def __repr__(self) -> str:
        if not self.passed:
            verdict = "NOT passed" if self.precision is not None else "NOT decided"
            return f"Verification({verdict}: {shortened(self.reason)})"
        inexact = ""
        if self.inexact_rel_difference is not None:
            inexact = f"; {self.inexact_rel_difference:.2g} to masking under a normalisation"
        return (
            f"Verification(passed: {self.error:.1e} of the removal's effect in {self.precision}, "
            f"allowed {self.tolerance:.0e}; max_rel_difference {self.max_rel_difference:.1e}"
            f"{inexact})"
        )

    def require(self) -> Verification:
        """Return itself.

        Raises:
            VerificationError: if it did not pass.
        """
        if not self.passed:
            raise VerificationError(
                f"the extracted model differs from the masked one: {self.reason}"
            )
        return self
