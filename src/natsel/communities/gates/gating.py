"""Which weights are gated, and whether they can be: looked at before anything changes."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.common.sharding.wrapping import spread_of
from natsel.communities.community import Communities, Community, Slice
from natsel.communities.gates.modules import REPARAMETRIZED, touched
from natsel.communities.kinds import kind_of
from natsel.communities.tensors import owner

NUM_NAMED = 3
WHOLE = -1
"""In place of an axis: one mass multiplies the whole tensor."""


def gated_slices(community: Community) -> tuple[Slice, ...]:
    """Return the slices at which a community's masses multiply.

    Everything that reads the populations; of an expert only its last weight, in the order of use,
    since whatever it makes leaves through that one, linearly.
    """
    return community.gates[-1:] if kind_of(community.kind).gated == "last" else community.gates


def massed_slices(community: Community) -> tuple[Slice, ...]:
    """Return the slices that masses multiply: gates, and biases beside rows that are gates."""
    beside = (s for s in community.silenced if not any(s is gate for gate in community.gates))
    return (*gated_slices(community), *beside)


def check(communities: Communities) -> None:
    """Make sure that the weights that read populations can be gated.

    Raises:
        ValueError: naming the weight, why not, and what to do.
    """
    model = communities.model
    if touched(model.modules()):
        _refuse("the model is already gated", "use one Evolution per model, or close it first")
    spread_of(model)
    parameters = dict(model.named_parameters())
    for community in communities.values():
        check_scales(community)
        for part in community.slices:
            _check_there(model, part.tensor)
        whole = [name for branch in community.branches for name in branch.gates]
        for name in whole:
            _check_there(model, name)
        for name in (*(part.tensor for part in massed_slices(community)), *whole):
            if name not in parameters:
                _refuse(
                    f"{name} is a buffer",
                    "make it a torch.nn.Parameter; it may be frozen if the fitness needs no "
                    "gradient",
                )
            module, _ = owner(model, name)
            if isinstance(module._modules.get("parametrizations"), nn.ModuleDict):
                _refuse(
                    f"the module of {name} has a parametrization of its own",
                    "remove it with torch.nn.utils.parametrize.remove_parametrizations, and find "
                    "the communities again",
                )


def check_scales(community: Community) -> None:
    """Make sure that masses can multiply what branches add.

    Raises:
        ValueError: naming the branches for which they cannot.
    """
    cannot = [branch.name for branch in community.branches if not branch.scale]
    if cannot:
        more = f" and {len(cannot) - NUM_NAMED} more" if len(cannot) > NUM_NAMED else ""
        refuse(
            f"communities[{community.name!r}]",
            f"{', '.join(cannot[:NUM_NAMED])}{more}, under a normalisation of its own",
            "branches whose last weights scale what they add (scorers loss and cosine need none)",
        )


def _check_there(model: nn.Module, tensor: str) -> None:
    """Refuse a tensor that was there when the communities were found, and is not any more."""
    path, _, name = tensor.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        _refuse(f"{tensor} is gone", "find the communities again")
    if module._parameters.get(name) is not None or module._buffers.get(name) is not None:
        return
    parametrizations = module._modules.get("parametrizations")
    if isinstance(parametrizations, nn.ModuleDict) and name in parametrizations:
        steps = [type(step).__name__ for step in parametrizations[name].children()]
        _refuse(
            f"{tensor} has a parametrization of its own ({', '.join(steps)})",
            "remove it with torch.nn.utils.parametrize.remove_parametrizations first",
        )
    if name + "_mask" in module._buffers:
        _refuse(
            f"{tensor} is pruned by a mask of torch.nn.utils.prune",
            f"make it permanent with torch.nn.utils.prune.remove(module, {name!r}) first",
        )
    if any(name + ending in module._parameters for ending in REPARAMETRIZED):
        _refuse(
            f"{tensor} is computed from others, by torch.nn.utils.weight_norm or spectral_norm",
            "remove that first (torch.nn.utils.remove_weight_norm, remove_spectral_norm)",
        )
    _refuse(f"{tensor} is gone", "find the communities again")


def _refuse(what: str, remedy: str) -> NoReturn:
    raise ValueError(f"this model is not allowed: {what} (remedy: {remedy})")


def whole_places_of(communities: Communities) -> dict[tuple[str, int], Tensor]:
    """Return which population each tensor belongs to that a branch's mass multiplies as a whole.

    Populations are counted through all communities.
    """
    offset = 0
    places: dict[tuple[str, int], Tensor] = {}
    for community in communities.values():
        for place, branch in enumerate(community.branches):
            for name in branch.gates:
                places[name, WHOLE] = torch.tensor([offset + place])
        offset += community.size
    return places


def places_of(communities: Communities) -> dict[tuple[str, int], Tensor]:
    """Return, for each place along each gated axis, which population it belongs to.

    Populations are counted through all communities; their number stands where there is none.
    """
    offset = 0
    places: dict[tuple[str, int], Tensor] = {}
    parameters = dict(communities.model.named_parameters())
    for community in communities.values():
        for part in massed_slices(community):
            key = (part.tensor, part.axis)
            if key not in places:
                size = parameters[part.tensor].shape[part.axis]
                places[key] = torch.full((size,), communities.num_populations)
            ids = torch.arange(offset, offset + community.size)
            width = part.index.shape[1]
            places[key][part.index.reshape(-1)] = ids.repeat_interleave(width)
        offset += community.size
    return places
