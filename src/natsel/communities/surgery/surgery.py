"""The two things that can be done to populations: silence their consumers, or cut them out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from natsel.communities.branches.branch import Branch, Shortening
from natsel.communities.branches.removal import shorten, shortening_of
from natsel.communities.community import Community
from natsel.communities.copies import copied
from natsel.communities.numbers import set_number
from natsel.communities.programs.program import Program
from natsel.communities.routers import close, router_of
from natsel.communities.surgery.adapters import adapt
from natsel.communities.surgery.counting import count
from natsel.communities.surgery.logits import keep_logits
from natsel.communities.surgery.standards import hold_standard
from natsel.communities.tensors import tensors_of


def kept_indices(
    communities: Iterable[Community], survivors: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, dict[int, Tensor]]:
    """Return, per tensor and axis, the places that remain.

    Args:
        communities: whose slices to use.
        survivors: one boolean tensor per community; one that is missing keeps all.
        tensors: the tensors of the model, for their sizes.

    Returns:
        ``{tensor: {axis: int64 indices in ascending order}}``, only what shrinks.
    """
    gone: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    for community in communities:
        if community.name not in survivors:
            continue
        dead = ~survivors[community.name].to(device="cpu", dtype=torch.bool)
        if not bool(dead.any()):
            continue
        for part in community.slices:
            gone[part.tensor, part.axis].append(part.index[dead].reshape(-1))
    kept: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for (name, axis), places in gone.items():
        keep = torch.ones(tensors[name].shape[axis], dtype=torch.bool)
        keep[torch.cat(places)] = False
        kept[name][axis] = keep.nonzero().reshape(-1)
    return dict(kept)


def cut(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """Return the part of a tensor that remains: ``kept`` maps an axis to its remaining places."""
    result = tensor.detach()
    for axis, index in kept.items():
        result = result.index_select(axis, index.to(tensor.device))
    return result.contiguous() if kept else result.clone()


def remove(
    model: nn.Module,
    communities: Iterable[Community],
    survivors: Mapping[str, Tensor],
    *,
    share: bool | Literal["whole"] = False,
) -> nn.Module:
    """Return a copy of a model that holds only the survivors; the model is not touched.

    Only what remains is copied. Parameters keep their ``requires_grad``; numbers that repeat a
    size (``in_features``, ``groups`` and those in ``rebindings``) follow, see ``adapters``.

    Args:
        model: the model that the communities were found in.
        communities: whose populations may go.
        survivors: one boolean tensor ``[size]`` per community.
        share: let the copy hold the very parameters of the model that are not cut; with "whole"
            those alone of modules that lose nothing and are not last in a branch beside one that
            goes, so that the others can be changed.

    Returns:
        The smaller model.
    """
    communities = tuple(communities)
    tensors = tensors_of(model)
    kept = kept_indices(communities, survivors, tensors)
    instead: dict[int, Tensor] = {}
    bridging = [
        g for c in communities if dead_branches(c, survivors) for b in c.branches for g in b.gates
    ]
    losing = _beside_what_shrinks(model, [*kept, *bridging]) if share == "whole" else set()
    for name, tensor in tensors.items():
        if name in kept:
            smaller = cut(tensor, kept[name])
            if isinstance(tensor, nn.Parameter):
                smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
            instead[id(tensor)] = smaller
        elif share and isinstance(tensor, nn.Parameter) and id(tensor) not in losing:
            instead[id(tensor)] = tensor
    small = copied(model, instead)
    adapt(small)
    keep_logits(small, communities, survivors, kept)
    if isinstance(model, Program) and isinstance(small, Program):
        small.follow(model, kept)
    for community in communities:
        if community.name in survivors:
            alive = int(survivors[community.name].sum())
            for bound in community.rebindings:
                module = small.get_submodule(bound.module)
                set_number(module, bound.attribute, alive * bound.per_population)
            if alive < community.size and not isinstance(model, Program):
                for mean in community.counted:
                    count(small.get_submodule(mean.module), mean.size)
                for path in community.standards:
                    weight = f"{path}.weight"
                    rows = kept.get(weight, {}).get(0)
                    hold_standard(small.get_submodule(path), tensors[weight], rows)
    shorten(small, shortened_by(model, communities, survivors))
    return small


def _beside_what_shrinks(model: nn.Module, kept: Iterable[str]) -> set[int]:
    """Return the ``id`` of every parameter of the modules that hold a tensor which shrinks."""
    tensors = tensors_of(model)
    shrinking = {id(tensors[name]) for name in kept}
    found: set[int] = set()
    for module in model.modules():
        own = {id(t) for t in (*module._parameters.values(), *module._buffers.values())}
        found |= own if own & shrinking else set()
    return found


def shortened_by(
    model: nn.Module, communities: Iterable[Community], survivors: Mapping[str, Tensor]
) -> Shortening:
    """Return what the branches that do not survive take with them.

    Args:
        model: the model that the communities were found in.
        communities: of it.
        survivors: one boolean tensor ``[size]`` per community; one that is missing keeps all.
    """
    found = [c for c in communities if c.branches]
    gone = [b for c in found for b in dead_branches(c, survivors)]
    if not gone:
        return Shortening()
    return shortening_of(model, gone, [b for c in found for b in c.branches])


def dead_branches(community: Community, survivors: Mapping[str, Tensor]) -> list[Branch]:
    """Return the branches of a community that do not survive."""
    if community.name not in survivors:
        return []
    alive = survivors[community.name].tolist()
    return [b for b, stays in zip(community.branches, alive, strict=False) if not stays]


def permute(model: nn.Module, community: Community, order: Tensor) -> nn.Module:
    """Return a copy of a model in which the populations of a community have changed places.

    It computes the same if, and only if, what a community owns is all that tells its populations
    apart. Parameters in which nothing moves are shared with the model.

    Args:
        model: the model that the community was found in.
        community: whose populations change places.
        order: which population comes where, ``[size]``.

    Returns:
        The model with permuted tensors.
    """
    moving = {part.tensor for part in community.slices}
    fixed = {id(p): p for name, p in model.named_parameters() if name not in moving}
    permuted = copied(model, fixed)
    tensors = tensors_of(permuted)
    with torch.no_grad():
        for part in community.slices:
            tensor = tensors[part.tensor]
            there, here = part.index.reshape(-1), part.index[order].reshape(-1)
            moved = tensor.index_select(part.axis, here.to(tensor.device))
            tensor.index_copy_(part.axis, there.to(tensor.device), moved)
    return permuted


def reference(
    model: nn.Module,
    communities: Iterable[Community],
    survivors: Mapping[str, Tensor],
    *,
    share: bool = False,
) -> nn.Module:
    """Return the network that a small one must equal.

    It is the masked network; of communities for which removing is not masking, the populations
    are removed from it.

    Args:
        model: the model that the communities were found in.
        communities: whose populations may go.
        survivors: one boolean tensor ``[size]`` per community.
        share: as in :func:`silence`.

    Returns:
        The reference.
    """
    communities = tuple(communities)
    masked = silence(model, [c for c in communities if c.exact], survivors, share=share)
    inexact = [c for c in communities if not c.exact and c.name in survivors]
    return remove(masked, inexact, survivors, share=share) if inexact else masked


def zero(
    tensors: Mapping[str, Tensor],
    communities: Iterable[Community],
    survivors: Mapping[str, Tensor],
    *,
    only: Collection[str] | None = None,
) -> None:
    """Set to zero, in some tensors or all, what reads the populations that do not survive.

    Args:
        tensors: by name; they are changed.
        communities: whose gates to look at.
        survivors: one boolean tensor ``[size]`` per community; of one that is missing all stay.
        only: names of the tensors that are changed; by default all.
    """
    for community in communities:
        if community.name not in survivors:
            continue
        dead = ~survivors[community.name].to(device="cpu", dtype=torch.bool)
        for part in community.silenced:
            if only is None or part.tensor in only:
                tensor = tensors[part.tensor]
                places = part.index[dead].reshape(-1).to(tensor.device)
                tensor.index_fill_(part.axis, places, 0)


def silence(
    model: nn.Module,
    communities: Iterable[Community],
    survivors: Mapping[str, Tensor],
    *,
    share: bool = False,
) -> nn.Module:
    """Return a copy of a model in which nothing reads the removed populations.

    The columns of every consumer that belong to a removed population are zero, and no router
    chooses a removed expert: the masked network that extraction must equal.

    Args:
        model: the model that the communities were found in.
        communities: whose populations may go.
        survivors: one boolean tensor ``[size]`` per community.
        share: let the copy hold the very tensors of the model where they are not masked.

    Returns:
        The masked model, of the same shapes.
    """
    communities = tuple(communities)
    changed = {p.tensor for c in communities if c.name in survivors for p in c.silenced}
    closed = {name for c in communities for b in dead_branches(c, survivors) for name in b.gates}
    changed |= closed
    same = {id(t): t for n, t in tensors_of(model).items() if share and n not in changed}
    masked = copied(model, same)
    tensors = tensors_of(masked)
    with torch.no_grad():
        for name in closed:
            tensors[name].zero_()
        zero(tensors, communities, survivors)
        for community in communities:
            if community.name not in survivors:
                continue
            dead = ~survivors[community.name].to(device="cpu", dtype=torch.bool)
            router = router_of(community)
            if router is not None:
                part = next(s for s in community.slices if s.role == "route")
                shut = torch.zeros(tensors[part.tensor].shape[part.axis], dtype=torch.bool)
                shut[part.index[dead].reshape(-1)] = True
                close(masked, router, shut)
    return masked
