"""Means over rows and columns: what they become when rows and columns go."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.extraction.state_leaves import Leaf, Part

TOLERANCE = 1e-3
"""Relative; the two means are rounded each by itself at every step."""


def factor(leaf: Leaf, part: Part, axis: int, partner: Leaf, across: int) -> Tensor:
    r"""Return what remains of a mean over an axis that itself shrinks.

    With the means \(r_i\) over the columns and \(c_j\) over the rows, an optimizer takes the mean
    at (i, j) to be \(r_i c_j / \bar c\). Over the kept columns K alone that of row i is then

    $$r_i' = r_i \frac{\frac1{|K|} \sum_{j \in K} c_j}{\bar c}$$

    which is exact where the removed columns did nothing, and leaves \(r_i c_j / \bar c\) what it
    was at every kept place.

    Args:
        leaf: the mean over ``axis`` of the parameter, which shrinks.
        part: what remains of it.
        axis: what it averages over.
        partner: the mean over another axis.
        across: that one.

    Returns:
        The mean over what remains of the axis.
    """
    kept = leaf.move.kept
    weight = _spread(partner, across).double()
    for at, index in kept.items():
        if at not in (axis, across):
            weight = weight.index_select(at, index.to(weight.device))
    mean = weight.mean(axis, keepdim=True)
    rest = weight.index_select(axis, kept[axis].to(weight.device)).mean(axis, keepdim=True)
    ratio = torch.where(mean > 0, rest / mean, torch.ones_like(mean))
    if leaf.value.dim() < leaf.move.old.dim():
        ratio = ratio.squeeze(axis)
    result = leaf.value.detach()
    for dim, index in part.places.items():
        result = result.index_select(dim, index.to(result.device))
    return (result.double() * ratio.to(result.device)).to(result.dtype)


def are_means(leaf: Leaf, axis: int, other: Leaf, across: int) -> bool:
    """Tell whether two leaves are, for sure, the means of the same numbers over one axis each.

    The mean of the one is the mean of the other then, whatever the numbers. Where both axes are
    of one size, sums do that too, and nothing can be told.
    """
    shape = leaf.move.old.shape
    if axis == across or shape[axis] == shape[across]:
        return False
    mine = _spread(leaf, axis).double().mean(across, keepdim=True)
    theirs = _spread(other, across).double().mean(axis, keepdim=True)
    if mine.shape != theirs.shape or not bool((mine > 0).any()):
        return False
    return bool(torch.allclose(mine, theirs, rtol=TOLERANCE, atol=0.0))


def _spread(leaf: Leaf, axis: int) -> Tensor:
    """Return a leaf with an axis of size 1 where it lacks one."""
    value = leaf.value.detach()
    return value if value.dim() == leaf.move.old.dim() else value.unsqueeze(axis)
