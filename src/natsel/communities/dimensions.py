"""Dimensions inside the heads of attention: found by a second propagation, and proven."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from natsel.common.calls import Inputs
from natsel.communities.collect import collect
from natsel.communities.community import Community, Refusal, Slice
from natsel.communities.cost import Cost
from natsel.communities.kinds import DIMENSION, HEAD, KEY, VALUE
from natsel.communities.labels.propagation import Propagation
from natsel.communities.pricing import macs_by_class
from natsel.communities.proof.proof import prove
from natsel.communities.tensors import canonical_names


def find_dimensions(
    model: nn.Module, program: ExportedProgram, inputs: Inputs, *, proof: bool
) -> tuple[list[Community], list[Refusal], Propagation]:
    """Find the dimensions of heads that can go: of queries and keys, of values, or of both at once.

    Where a module has one number for the width of all of them, a dimension of queries and keys
    goes with one of the values: the n-th with the n-th. Rotary dimensions go in pairs, then with
    as many of the values. Where code divides products by the root of what width there is, what
    makes queries and keys is scaled when it is cut.

    Args:
        model: in evaluation mode.
        program: the exported model.
        inputs: what the proof runs on.
        proof: keep only what was proven.

    Returns:
        Communities, refusals, and the propagation that found them.
    """
    run = Propagation(program, canonical_names(model), dims=True)
    collected, _ = collect(run)
    found = [_read(c) for c in collected if c.kind in (KEY.name, VALUE.name)]
    if not proof:
        return found, [], run
    proven, refused = _either(model, found, inputs, program)
    left = {r.name for r in refused}
    merged = list(_merged([c for c in found if c.name in left]))
    if merged:
        more, failed = _either(model, merged, inputs, program)
        proven, refused = proven + more, [r for r in refused if _is_about(r, failed)]
    return proven, refused, run


def macs_between(run: Propagation, community: Community) -> Tensor:
    """Return the multiply-accumulates that each dimension takes in products of activations."""
    charged = macs_by_class(run)
    total = torch.zeros(community.size, dtype=torch.float64)
    for number in range(community.size):
        roots: set[int] = set()
        for part in community.slices:
            labels = run.axis_labels.get((part.tensor, part.axis))
            if labels is not None:
                roots |= set(run.space.roots(labels[part.index[number]]).tolist())
        total[number] = sum(charged.get(root, 0.0) for root in roots)
    return total


def _is_about(refusal: Refusal, failed: Iterable[Refusal]) -> bool:
    return any(refusal.name == f.name for f in failed)


def _either(
    model: nn.Module, found: Sequence[Community], inputs: Inputs, program: ExportedProgram
) -> tuple[list[Community], list[Refusal]]:
    """Prove communities with products as they are, and else with products that code scales."""
    proven, refused = prove(model, found, inputs, program)
    left = {r.name for r in refused}
    scaled = [_scaled(c) for c in found if c.name in left and c.kind != VALUE.name]
    if not scaled:
        return proven, refused
    more, failed = prove(model, scaled, inputs, program)
    known = {c.name for c in more}
    still = [r for r in refused if r.name not in known]
    return [*proven, *more], [next((f for f in failed if f.name == r.name), r) for r in still]


def _read(community: Community) -> Community:
    """Return a community of queries and keys whose own rows are what a mass gates: no weight

    reads a dimension that two factors share. What makes it does, from either side.
    """
    if community.kind != KEY.name:
        return community
    slices = tuple(replace(s, role="in") if s.role == "out" else s for s in community.slices)
    return replace(community, slices=slices)


def _scaled(community: Community) -> Community:
    """Return the same with the rows, and biases, that make queries and keys to be scaled."""
    made = {s.tensor.rpartition(".")[0] for s in community.slices if s.role == "in" and s.axis == 0}
    numbers = tuple(
        n
        for n, s in enumerate(community.slices)
        if s.axis == 0 and s.tensor.rpartition(".")[0] in made and n < _of_keys(community)
    )
    return replace(community, scaled=numbers)


def _of_keys(community: Community) -> int:
    """Return how many slices are of queries and keys: they come first."""
    if community.kind == KEY.name:
        return len(community.slices)
    owned = [(s.tensor, s.axis) for s in community.slices]
    first_value = next((n for n, s in enumerate(community.slices) if s.role == "out"), len(owned))
    return first_value


def _merged(left: Sequence[Community]) -> Iterable[Community]:
    """Yield dimensions of queries and keys together with those of the values beside them."""
    values = [c for c in left if c.kind == VALUE.name]
    for keys in (c for c in left if c.kind == KEY.name):
        mine = [v for v in values if v.name == keys.name or _is_within(v, keys)]
        if not mine or any(v.size % keys.size for v in mine):
            continue
        parts = [_grouped(s, keys.size) for v in mine for s in v.slices]
        cost = Cost(
            keys.cost.parameters + sum(v.cost.parameters * v.size // keys.size for v in mine),
            keys.cost.macs + sum(v.cost.macs * v.size / keys.size for v in mine),
        )
        yield replace(keys, kind=DIMENSION.name, cost=cost, slices=(*keys.slices, *parts))


def _is_within(value: Community, keys: Community) -> bool:
    tensors = {s.tensor.rpartition(".")[0] for s in keys.slices if s.role == "in"}
    above = {t.rpartition(".")[0] for t in tensors} | tensors
    return any(s.tensor.rpartition(".")[0] in above or s.tensor.rpartition(".")[0].rpartition(".")[0] in above for s in value.slices if s.role == "out")


def _grouped(part: Slice, size: int) -> Slice:
    """Let every ``size``-th population be one: the halves of rotary pairs, and values alike."""
    index = part.index.reshape(-1, size, part.index.shape[1]).transpose(0, 1).reshape(size, -1)
    return replace(part, index=index.sort(dim=1).values)
