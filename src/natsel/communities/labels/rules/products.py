"""Products of two activations: attention written out, or places mixed with plain data."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor, fx

from natsel.communities.kinds import HEAD
from natsel.communities.labels.graph import place
from natsel.communities.labels.labels import DATA, narrowed
from natsel.communities.labels.propagation import Propagation
from natsel.communities.labels.rules.dimensions import are_matched, carried, match
from natsel.communities.labels.rules.normalization import note_mixed
from natsel.communities.labels.rules.queries import query_heads


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
    if run.dims and a.dim() > 2 and are_matched(run, a, b):
        match(run, a, b.transpose(-2, -1), macs, reason)
        return torch.full((), DATA, dtype=torch.int64).expand(shape)
    if run.dims and a.dim() > 2 and bool((a <= DATA).all()):
        return carried(run, b, macs, reason).expand(shape)
    a, b = _without_shared(run, a, b, reason)
    if (passed := _carried(run, a, b)) is not None:
        passing, axis = passed
        run.space.fix(b if passing is a else a, reason)
        labels = passing.narrow(axis, 0, 1)
        run.charge_labels(labels, macs / labels.numel())
        return labels.expand(shape)
    if bool((a <= DATA).all()) or bool((b <= DATA).all()):
        mixed = _mix(run, a, b, reason)
        run.charge_labels(mixed, macs / mixed.numel())
        return mixed.expand(shape)
    # Each entry of the result sums over pairs without a weight between: one population per batch
    # place. In attention that place is the head.
    rows = run.space.unite_along(a, (-2, -1), reason)
    columns = run.space.unite_along(b, (-2, -1), reason)
    head = query_heads(run, rows, columns)
    if head is None:
        head = query_heads(run, columns, rows)
    if head is None:
        head = meet(run, rows, columns, reason)
        run.mark(head, HEAD.name)
    run.charge_labels(head, macs / head.numel())
    return head.expand(shape)


def _without_shared(run: Propagation, a: Tensor, b: Tensor, reason: str) -> tuple[Tensor, Tensor]:
    """Return two factors with plain data in place of one that stays whole and is shared.

    All populations of the other one, which lie along its rows, meet the same of it, as the heads of
    a batch a table of positions.
    """
    for shared, other, rows in ((a, b, -1), (b, a, -2)):
        apart = not _alike(run.space.roots(other), rows)
        if apart and _is_shared(run, shared) and not _is_shared(run, other):
            run.space.fix(shared, reason)
            data = torch.full((), DATA, dtype=torch.int64).expand(shared.shape)
            return (data, b) if shared is a else (a, data)
    return a, b


def _is_shared(run: Propagation, x: Tensor) -> bool:
    """Tell whether a factor is the same for all matrices of a batch, and none of it can go.

    None can of what is fixed, nor of parameters that no layer makes.
    """
    roots = run.space.roots(x)
    if bool((roots <= DATA).all()) or not all(_alike(roots, i) for i in range(x.dim() - 2)):
        return False
    few = narrowed(roots)
    free = few[(few > DATA) & ~run.space.is_fixed(few)]
    return not bool(torch.isin(free, run.made()).any())


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


def _carried(run: Propagation, a: Tensor, b: Tensor) -> tuple[Tensor, int] | None:
    """Return the factor whose rows (or columns) are populations, each summed up by itself.

    The other factor is the same for all of them, as the state of a scan is read out, or places are
    averaged by weights that a layer makes: it stays whole. With the factor comes the axis that is
    summed over.
    """
    for passing, other, summed, kept in ((a, b, -1, -2), (b, a, -2, -1)):
        roots = run.space.roots(passing)
        others = run.space.roots(other)
        if bool((others <= DATA).all()) or not _alike(roots, summed) or _alike(roots, kept):
            continue
        if all(_alike(others, axis) for axis in range(-other.dim(), 0) if axis != _across(summed)):
            return passing, summed
    return None


def _across(summed: int) -> int:
    """Return the axis of the other factor that runs along the one that is summed over."""
    return -2 if summed == -1 else -1


def _alike(roots: Tensor, axis: int) -> bool:
    """Tell whether labels do not differ along an axis."""
    return bool((roots == roots.narrow(axis, 0, 1)).all())
