"""The two things that can be done to populations: silence their consumers, or cut them out."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from natsel.communities.community import Community
from natsel.communities.program import Program

SIZE_ATTRIBUTES: dict[type[nn.Module], tuple[tuple[str, str, int], ...]] = {
    nn.Linear: (("in_features", "weight", 1), ("out_features", "weight", 0)),
    _NormBase: (("num_features", "weight|running_mean", 0),),
    nn.Embedding: (("num_embeddings", "weight", 0), ("embedding_dim", "weight", 1)),
    nn.PReLU: (("num_parameters", "weight", 0),),
}
"""Numbers in modules of torch that repeat the size of a tensor: (attribute, tensor, axis)."""

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by name, each shared tensor once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


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
    model: nn.Module, communities: Iterable[Community], survivors: Mapping[str, Tensor]
) -> nn.Module:
    """Return a copy of a model that holds only the survivors; the model is not touched.

    Only what remains is copied. Parameters keep their ``requires_grad``; numbers that repeat a
    size (``in_features``, ``groups`` and those in ``rebindings``) follow.

    Args:
        model: the model that the communities were found in.
        communities: whose populations may go.
        survivors: one boolean tensor ``[size]`` per community.

    Returns:
        The smaller model.
    """
    communities = tuple(communities)
    tensors = tensors_of(model)
    kept = kept_indices(communities, survivors, tensors)
    memo: dict[int, object] = {}
    for name, tensor in tensors.items():
        if name in kept:
            smaller = cut(tensor, kept[name])
            if isinstance(tensor, nn.Parameter):
                smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
            memo[id(tensor)] = smaller
    small = copy.deepcopy(model, memo)
    follow_sizes(small)
    if isinstance(model, Program) and isinstance(small, Program):
        small.follow(model, kept)
    for community in communities:
        if community.name in survivors:
            alive = int(survivors[community.name].sum())
            for bound in community.rebindings:
                module = small.get_submodule(bound.module)
                setattr(module, bound.attribute, alive * bound.per_population)
    return small


def silence(
    model: nn.Module, communities: Iterable[Community], survivors: Mapping[str, Tensor]
) -> nn.Module:
    """Return a copy of a model in which nothing reads the removed populations.

    The columns of every consumer that belong to a removed population are zero: the masked network
    that extraction must equal.

    Args:
        model: the model that the communities were found in.
        communities: whose populations may go.
        survivors: one boolean tensor ``[size]`` per community.

    Returns:
        The masked model, of the same shapes.
    """
    masked = copy.deepcopy(model)
    tensors = tensors_of(masked)
    with torch.no_grad():
        for community in communities:
            if community.name not in survivors:
                continue
            dead = ~survivors[community.name].to(device="cpu", dtype=torch.bool)
            for part in community.gates:
                tensor = tensors[part.tensor]
                places = part.index[dead].reshape(-1).to(tensor.device)
                tensor.index_fill_(part.axis, places, 0)
    return masked


def follow_sizes(model: nn.Module) -> None:
    """Set the numbers in modules of torch that repeat the size of a tensor."""
    for module in model.modules():
        for kind, entries in SIZE_ATTRIBUTES.items():
            if isinstance(module, kind):
                for attribute, names, axis in entries:
                    for name in names.split("|"):
                        tensor = getattr(module, name, None)
                        if isinstance(tensor, Tensor) and tensor.dim() > axis:
                            setattr(module, attribute, tensor.shape[axis])
                            break
        if isinstance(module, nn.GroupNorm) and module.weight is not None:
            per_group = module.num_channels // module.num_groups
            module.num_channels = module.weight.shape[0]
            module.num_groups = module.num_channels // per_group
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.weight is not None:
            module.normalized_shape = tuple(module.weight.shape)
        if isinstance(module, CONVOLUTIONS):
            _follow_convolution(module)


def _follow_convolution(module: nn.modules.conv._ConvNd) -> None:
    first, second = module.weight.shape[0], module.weight.shape[1]
    if isinstance(module, TRANSPOSED):
        module.in_channels, module.out_channels = first, second * module.groups
        return
    if module.groups > 1 and module.groups == module.in_channels:
        multiplier = module.out_channels // module.groups
        module.groups = first // multiplier
    module.in_channels, module.out_channels = second * module.groups, first
