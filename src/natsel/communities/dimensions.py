"""Dimensions inside the heads of attention: found by a second propagation, and proven."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from natsel.common.calls import Inputs
from natsel.communities.collect import collect
from natsel.communities.community import Community, Refusal, Slice
from natsel.communities.cost import Cost
from natsel.communities.kinds import DIMENSION, KEY, VALUE
from natsel.communities.labels.propagation import Propagation
from natsel.communities.pricing import macs_by_class
from natsel.communities.proof.proof import prove
from natsel.communities.rotary import ANEW
from natsel.communities.tensors import canonical_names


def find_dimensions(
    model: nn.Module,
    program: ExportedProgram,
    inputs: Inputs,
    *,
    proof: bool,
    changing: Collection[str] = (),
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
        changing: paths of modules that compute buffers anew: what owns a part of these stays.

    Returns:
        Communities, refusals, and the propagation that found them.
    """
    run = Propagation(program, canonical_names(model), dims=True)
    collected, _ = collect(run)
    found = [_read(c) for c in collected if c.kind in (KEY.name, VALUE.name)]
    anew = [c for c in found if any(_holder(s.tensor) in changing for s in c.slices)]
    found = [c for c in found if c not in anew]
    stay = [Refusal(c.name, c.size, ANEW) for c in anew]
    if not proof:
        return found, stay, run
    merged = list(_merged(found))
    together, failed = _either(model, merged, inputs, program)
    # Where more than one number follows, code may tell the widths apart.
    together = [c for c in together if len({b.attribute for b in c.rebindings}) < 2]
    held = {s.tensor for c in together for s in c.slices}
    rest = [c for c in found if not held & {s.tensor for s in c.slices}]
    apart, refused = _either(model, rest, inputs, program)
    return [*together, *apart], [*stay, *(refused or failed)], run


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


def _either(
    model: nn.Module, found: Sequence[Community], inputs: Inputs, program: ExportedProgram
) -> tuple[list[Community], list[Refusal]]:
    """Prove communities with products as they are, and else with products that code scales."""
    if not found:
        return [], []
    scaled = [c if c.kind == VALUE.name else _scaled(c) for c in found]
    ways = [scaled, list(found)] if _takes_its_width(program) else [list(found), scaled]
    proven, refused = prove(model, ways[0], inputs, program)
    left = {r.name for r in refused}
    others = [c for c in ways[1] if c.name in left and c.kind != VALUE.name]
    if not others:
        return proven, refused
    more, _ = prove(model, others, inputs, program)
    known = {c.name for c in more}
    return [*proven, *more], [r for r in refused if r.name not in known]


def _takes_its_width(program: ExportedProgram) -> bool:
    """Tell whether an attention of a model divides by the root of the width that it finds."""
    nodes = (n for n in program.graph.nodes if "scaled_dot_product" in str(n.target))
    return any(node.kwargs.get("scale") is None for node in nodes)


def _read(community: Community) -> Community:
    """Return a community of queries and keys whose rows are what a mass gates.

    No weight reads a dimension that two factors share.
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
        for n, s in enumerate(community.slices[: _of_keys(community)])
        if s.axis == 0 and s.tensor.rpartition(".")[0] in made
    )
    return replace(community, scaled=numbers)


def _of_keys(community: Community) -> int:
    """Return how many slices are of queries and keys: they come before what makes the values."""
    roles = [s.role for s in community.slices]
    return roles.index("out") if "out" in roles else len(roles)


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
    """Tell whether values are made beside what makes the keys."""
    beside = {_parent(s.tensor) for s in keys.slices if s.role == "in"}
    return any(_parent(s.tensor) in beside for s in value.slices if s.role == "out")


def _holder(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _parent(tensor: str) -> str:
    """Return the path of the module that holds the layer of a tensor."""
    return ".".join(tensor.split(".")[:-2])


def _grouped(part: Slice, size: int) -> Slice:
    """Let every ``size``-th population be one: the halves of rotary pairs, and values alike."""
    index = part.index.reshape(-1, size, part.index.shape[1]).transpose(0, 1).reshape(size, -1)
    return replace(part, index=index.sort(dim=1).values)
