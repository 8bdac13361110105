"""How far a smaller model is from the masked one, measured by what the removal changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

TOLERANCE = 1e-9
"""Largest error of a removal in float64, relative to its effect."""

VISIBLE = 1e-5
"""Least effect, relative to the outputs, of which float64 tells the error that finely."""

ROUNDING = 1e-12
"""Largest error of an output that a removal does not change, relative to that output."""


class Gap(NamedTuple):
    """How far what a small model returns is from what the masked one returns.

    Attributes:
        error: the largest absolute difference between the two, over all outputs.
        effect: the largest absolute difference that masking makes to the dense model.
        relative: the largest error relative to the effect, over the outputs in which the effect
            shows; 0 where there is none.
        visible: whether the effect shows in some output: where it does not, equal outputs prove
            nothing.
        rounded: whether every output in which it does not show is equal up to rounding.
        finite: whether all outputs are finite.
        same_shape: whether all outputs have the same shapes.
        agrees: whether some output in which the effect shows is equal.
    """

    error: float = 0.0
    effect: float = 0.0
    relative: float = 0.0
    visible: bool = False
    rounded: bool = True
    finite: bool = True
    same_shape: bool = True
    agrees: bool = False

    def within(self, tolerance: float = TOLERANCE) -> bool:
        """Tell whether the two agree to a tolerance, relative to the effect where it shows."""
        return self.same_shape and self.finite and self.rounded and self.relative <= tolerance


def gap(small: Sequence[Tensor], masked: Sequence[Tensor], dense: Sequence[Tensor]) -> Gap:
    """Measure the error of a removal, and its effect, output by output.

    Args:
        small: what the small model returns, in float64.
        masked: what the masked model returns.
        dense: what the dense model returns.

    Returns:
        The two, and whether the effect shows.

    Example:
        >>> import torch
        >>> dense, masked = torch.tensor([2.0, 4.0]), torch.tensor([2.0, 3.0])
        >>> gap([masked + 0.25], [masked], [dense]).relative
        0.25
        >>> gap([dense], [dense], [dense]).visible
        False
    """
    shapes = [[tuple(x.shape) for x in outputs] for outputs in (small, masked, dense)]
    if shapes[0] != shapes[1] or shapes[1] != shapes[2]:
        return Gap(float("inf"), same_shape=False)
    found = Gap()
    for ours, theirs, whole in zip(small, masked, dense, strict=True):
        if ours.numel():
            found = _joined(found, _of_one(*(x.detach().double() for x in (ours, theirs, whole))))
    return found


def apart(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Return the largest difference of two tensors where both are finite, and how large they are.

    Args:
        ours: one tensor.
        theirs: another one of the same shape, whose largest number is the size.

    Example:
        >>> import torch
        >>> apart(torch.tensor([1.0, 2.5, torch.nan]), torch.tensor([1.0, 2.0, 7.0]))
        (0.5, 2.0)
    """
    both = ours.isfinite() & theirs.isfinite()
    a, b = ours[both].double(), theirs[both].double()
    return (float((a - b).abs().max()), float(b.abs().max())) if a.numel() else (0.0, 0.0)


def _of_one(ours: Tensor, theirs: Tensor, whole: Tensor) -> Gap:
    scale = max(float(theirs.abs().max()), float(whole.abs().max()))
    if not scale < float("inf"):
        ours, theirs, whole = _without_same(ours, theirs, whole)
        if not ours.numel():
            return Gap()
        scale = max(float(theirs.abs().max()), float(whole.abs().max()))
    error = float((ours - theirs).abs().max())
    effect = float((theirs - whole).abs().max())
    finite = error < float("inf") and effect < float("inf") and scale < float("inf")
    # Where only zeros are left, whatever led to them is hidden.
    visible = effect > VISIBLE * scale and bool(theirs.any())
    return Gap(
        error=error,
        effect=effect,
        relative=error / effect if visible else 0.0,
        visible=visible,
        rounded=visible or error <= ROUNDING * scale,
        finite=finite,
        agrees=visible and error <= TOLERANCE * effect,
    )


def _without_same(ours: Tensor, theirs: Tensor, whole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Leave out places that are the same infinity in all three: a mask that is returned, say."""
    same = (ours == theirs) & (theirs == whole) & theirs.isinf()
    return ours[~same], theirs[~same], whole[~same]


def _joined(a: Gap, b: Gap) -> Gap:
    return Gap(
        error=max(a.error, b.error),
        effect=max(a.effect, b.effect),
        relative=max(a.relative, b.relative),
        visible=a.visible or b.visible,
        rounded=a.rounded and b.rounded,
        finite=a.finite and b.finite,
        same_shape=a.same_shape and b.same_shape,
        agrees=a.agrees or b.agrees,
    )
