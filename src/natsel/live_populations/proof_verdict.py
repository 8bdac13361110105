"""What a proof of live populations says."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from natsel.communities.proof.gap import TOLERANCE
from natsel.extraction import Verification


def verdict(
    thinned: Sequence[Tensor], hidden: Sequence[Tensor], whole: Sequence[Tensor], *, what: str
) -> Verification:
    """Return whether two ways to let the same populations leave give the same.

    Args:
        thinned: outputs where they have left.
        hidden: outputs where everybody is there, and they are hidden.
        whole: outputs where nobody left; of another shape, they tell of no effect.
        what: these are.
    """
    pairs = list(zip(thinned, hidden, strict=True))
    gap = max(float((a - b).abs().max()) for a, b in pairs)
    size = max(float(b.abs().max()) for b in hidden)
    same = [(b, c) for b, c in zip(hidden, whole, strict=True) if b.shape == c.shape]
    effect = max((float((b - c).abs().max()) for b, c in same), default=0.0)
    error = gap / effect if effect > 0 else gap / max(size, 1.0)
    finite = all(bool(x.isfinite().all()) for pair in pairs for x in pair)
    reason = f"the {what} differ by {error:.1e} of what the eviction changes"
    passed = finite and error <= TOLERANCE
    return Verification(
        max_abs_difference=gap,
        max_rel_difference=gap / size if size > 0 else 0.0,
        max_abs_difference_float64=gap,
        tolerance=TOLERANCE,
        passed=passed,
        effect=effect,
        error=error,
        reason="" if passed else (reason if finite else f"one of the {what} is NaN or infinite"),
    )
