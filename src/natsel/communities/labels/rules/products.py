"""Products of two activations: attention written out, or places mixed with plain data."""

from __future__ import annotations

from math import prod

import numpy as np
from torch import Tensor, fx

from natsel.communities.labels.graph import place
from natsel.communities.labels.labels import DATA
from natsel.communities.labels.propagation import Propagation
from natsel.communities.labels.rules.normalization import note_mixed


def product_of_activations(
    run: Propagation, node: fx.Node, a: Tensor, b: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """Return the labels of a matrix product of two activations.

    Args:
        run: the propagation.
        node: the operator.
        a: labels ``[..., rows, inner]``.
        b: labels ``[..., inner, columns]``.
        shape: of the result, ``[..., rows, columns]``.
    """
    reason = f"it is contracted with plain data{place(node)}"
    macs = float(prod(shape) * a.shape[-1])
    if bool((a <= DATA).all()) or bool((b <= DATA).all()):
        mixed = _mix(run, a, b, reason)
        run.charge_labels(mixed, macs / mixed.numel())
        return mixed.expand(shape)
    # Each entry of the result sums over pairs without a weight between: one population per batch
    # place. In attention that place is the head.
    rows = run.space.unite_along(a, (-2, -1), reason)
    columns = run.space.unite_along(b, (-2, -1), reason)
    head = meet(run, rows, columns, reason)
    run.mark(head, "head")
    run.charge_labels(head, macs / head.numel())
    return head.expand(shape)


def meet(run: Propagation, a: Tensor, b: Tensor, reason: str) -> Tensor:
    """Unite the batch places of two operands of a product."""
    shape = np.broadcast_shapes(a.shape, b.shape)
    run.space.unite(a.expand(shape), b.expand(shape), reason)
    return a.expand(shape)


def _mix(run: Propagation, a: Tensor, b: Tensor, reason: str) -> Tensor:
    """Mix places with a matrix of plain data: harmless along an axis without populations."""
    carrier, axis = (b, -2) if bool((a <= DATA).all()) else (a, -1)
    note_mixed(run, carrier, (axis % carrier.dim(),), reason)
    merged = run.space.unite_along(carrier, (axis,), reason)
    # A row of data that is contracted with populations is plain data itself.
    return merged.clamp_min(DATA)
