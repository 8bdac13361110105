"""Optimal brain surgery, layer by layer: the weights that stay make up for those that go."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from natsel.single_weights.patterns import (
    Given,
    OfGroups,
    OfMatrix,
    OfRows,
    Pattern,
    check_divides,
    keep,
    up_to,
)

DAMPING = 1e-2
"""Added to the diagonal of the second moments, as a share of its mean."""
WIDTH = 128
"""Columns that are decided together."""


class Solved(NamedTuple):
    """A layer without the weights that went.

    Attributes:
        weight: with zeros where the mask is false, ``[rows, columns]``.
        mask: which weights stay.
    """

    weight: Tensor
    mask: Tensor


class Prepared(NamedTuple):
    """What all layers that read the same, at any sparsity, share: see :func:`prepare`.

    Attributes:
        order: in which columns are taken, ``[columns]``.
        factor: rows are what the weights behind a column take over, ``[columns, columns]``.
    """

    order: Tensor
    factor: Tensor


def prepare(second: Tensor, *, damping: float = DAMPING, group: int = 1) -> Prepared:
    """Return the order of the columns, those that carry most first, and the factor of H^-1 in it.

    Args:
        second: H, ``[columns, columns]``.
        damping: added to the diagonal, as a share of its mean.
        group: columns that stay together.
    """
    heavy = second.diagonal().view(-1, group).sum(1)
    first = torch.argsort(heavy, descending=True, stable=True) * group
    order = (first[:, None] + torch.arange(group, device=first.device)).flatten()
    return Prepared(order, inverse_factor(second[order][:, order], damping))


def solve(
    weight: Tensor,
    second: Tensor,
    pattern: Pattern,
    *,
    damping: float = DAMPING,
    width: int = WIDTH,
    ordered: bool = True,
    prepared: Prepared | None = None,
) -> Solved:
    """Remove weights of a linear layer one column after the other, and let the rest make up.

    With second moments H = E x x^T of what enters, removing weight w_j of a row costs
    w_j^2 / [H^-1]_jj, and the update -w_j / [H^-1]_jj H^-1_j of the weights behind it costs least.
    Rows share H, so they share all inverses: those of the columns j, j + 1, ... are rows of one
    Cholesky factor of H^-1. What goes is decided for ``width`` columns at a time, after all
    updates of those before.

    Args:
        weight: ``[rows, columns]``; it is not changed.
        second: H, ``[columns, columns]``.
        pattern: how many stay, and where.
        damping: added to the diagonal, as a share of its mean.
        width: columns that are decided together.
        ordered: take the columns that carry most first, so that those that carry least can still
            make up for all; of N:M the groups.
        prepared: what :func:`prepare` returned for these moments.

    Returns:
        The weights, in their type, and the mask; exactly as many go as the pattern says.

    Raises:
        ValueError: if M does not divide the columns.

    Example:
        >>> weight, second = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
        >>> solve(weight, second, OfRows(1), damping=1e-6).weight.sum()  # one does the work of both
        tensor(2.0000)

    Reference:
        Frantar and Alistarh, "SparseGPT", ICML 2023.
    """
    columns = weight.shape[1]
    group = pattern.num_all if isinstance(pattern, OfGroups) else 1
    check_divides(columns, group)
    if prepared is None and ordered:
        prepared = prepare(second, damping=damping, group=group)
    elif prepared is None:
        order = torch.arange(columns, device=second.device)
        prepared = Prepared(order, inverse_factor(second, damping))
    order = prepared.order
    back = torch.argsort(order)
    if isinstance(pattern, Given):
        pattern = Given(pattern.mask.to(weight.device)[:, order])
    work = weight.detach()[:, order].to(torch.float64 if weight.dtype == torch.float64 else None)
    work = work.float() if work.dtype != torch.float64 else work
    factor = prepared.factor.to(work)
    mask = torch.ones(work.shape, dtype=torch.bool, device=work.device)
    width = max(group, width // group * group)
    for start in range(0, columns, width):
        stop = min(start + width, columns)
        inner = factor[start:stop, start:stop]
        part = work[:, start:stop]
        costs = (part / inner.diagonal()).square()
        mask[:, start:stop] = kept = keep(costs, _within(pattern, start, stop, work.shape))
        errors = torch.zeros_like(part)
        for j in range(stop - start):
            lost = part[:, j].masked_fill(kept[:, j], 0) / inner[j, j]
            part[:, j:] -= torch.outer(lost, inner[j, j:])
            errors[:, j] = lost
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    mask = mask[:, back]
    return Solved(work[:, back].masked_fill_(~mask, 0).to(weight.dtype), mask)


def inverse_factor(second: Tensor, damping: float) -> Tensor:
    """Return the upper triangular U with U^T U = (H + damping)^-1, in float64.

    Row j of U, divided by its diagonal, is what the weights behind j take over.
    """
    damped = damped_moments(second, damping)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def damped_moments(second: Tensor, damping: float) -> Tensor:
    """Return second moments with a share of their mean added to the diagonal, in float64."""
    home = torch.device("cpu") if second.device.type == "mps" else second.device
    moments = second.to(home).double()
    mean = float(moments.diagonal().mean())
    # Inputs that carry nothing at all leave every weight free: any positive number will do.
    extra = damping * mean if mean > 0 else 1.0
    return moments + extra * torch.eye(len(moments), dtype=moments.dtype, device=home)


def error(weight: Tensor, other: Tensor, second: Tensor) -> float:
    """Return the mean squared difference of what two layers give: tr (W - V) H (W - V)^T.

    Example:
        >>> error(torch.ones(1, 2), torch.tensor([[1.0, 0.0]]), torch.eye(2))
        1.0
    """
    gap = (weight - other).to(second)
    return float(((gap @ second) * gap).sum())


def _within(pattern: Pattern, start: int, stop: int, shape: torch.Size) -> Pattern:
    """Return the pattern of some columns."""
    columns = shape[1]
    match pattern:
        case Given(mask):
            return Given(mask[:, start:stop])
        case OfGroups():
            return pattern
        case OfRows(num):
            return OfRows(up_to(num, stop, columns) - up_to(num, start, columns))
        case OfMatrix(num):
            return OfMatrix(up_to(num, stop, columns) - up_to(num, start, columns))
