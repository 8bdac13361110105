"""Gates: a population's mass multiplies the weights that read it, O(weights), not O(batch)."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from natsel.communities import flat_weights, gated_reads, ways
from natsel.communities.community import Communities, Community, Slice
from natsel.communities.tensors import owner, tensors_of


class Gate(nn.Module):
    """Scale the columns of a consumer's weight: W[:, j] * mass[j].

    The optimizer sees the ungated weight V and its gradient m dL/dW, so it cannot undo the mass.
    """

    mass: Tensor

    def __init__(self, mass: Tensor) -> None:
        super().__init__()
        self.register_buffer("mass", mass)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the gated weight."""
        return weight * self.mass


class Gated(NamedTuple):
    """One gated weight.

    Attributes:
        tensor: its name in the model, as the communities know it.
        axis: the axis that reads populations.
        gate: the gate, whose ``mass`` is broadcast along the other axes.
        places: for each place along the axis, the index of its population among all populations
            of all communities; the number of populations where there is none (its mass is 1).
    """

    tensor: str
    axis: int
    gate: Gate
    places: Tensor


def gated_slices(community: Community) -> tuple[Slice, ...]:
    """Return the slices at which a community's masses multiply.

    Everything that reads the populations; of an expert only its last weight, in the order of use,
    since whatever it makes leaves through that one, linearly.
    """
    return community.gates[-1:] if community.kind == "expert" else community.gates


def ungated_name(name: str) -> str:
    """Return a tensor's name as it is without gates.

    Example:
        >>> ungated_name("layers.3.parametrizations.weight.original")
        'layers.3.weight'
    """
    if ".parametrizations." in f".{name}" and name.endswith(".original"):
        head, _, tail = f".{name}".partition(".parametrizations.")
        return f"{head}.{tail.removesuffix('.original')}".lstrip(".")
    return name


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return every place of each tensor: a shared one must be gated wherever it is read."""
    owners: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    owners[id(tensor)].append((module, name))
    return owners


def install(communities: Communities) -> list[Gated]:
    """Put a gate with mass 1 on every weight that reads a population.

    The parameters stay the same objects, so an optimizer that holds them goes on.

    Args:
        communities: of the model to gate; the model is changed.

    Returns:
        The gated weights.

    Raises:
        ValueError: if a weight already has a gate.
    """
    offset = 0
    places: dict[tuple[str, int], Tensor] = {}
    total = communities.num_populations
    parameters = tensors_of(communities.model)
    owners = _owners(communities.model)
    for community in communities.values():
        for part in gated_slices(community):
            key = (part.tensor, part.axis)
            if part.tensor not in parameters:
                raise ValueError(
                    f"communities={communities!r} is not allowed: {part.tensor} is already gated "
                    "or gone; use one Evolution per model"
                )
            if key not in places:
                size = parameters[part.tensor].shape[part.axis]
                places[key] = torch.full((size,), total)
            ids = torch.arange(offset, offset + community.size)
            width = part.index.shape[1]
            places[key][part.index.reshape(-1)] = ids.repeat_interleave(width)
        offset += community.size
    for name, _ in places:
        for module, _ in owners[id(parameters[name])]:
            if parametrize.is_parametrized(module) and not _has_gates(module):
                raise ValueError(
                    f"communities={communities!r} is not allowed: the module of {name} has a "
                    "parametrization of its own; remove it with torch.nn.utils.parametrize first"
                )
    gated = []
    for (name, axis), index in places.items():
        weight = parameters[name]
        shape = [1] * weight.dim()
        shape[axis] = -1
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        mass = torch.ones(len(index), device=weight.device, dtype=dtype).reshape(shape)
        gate = Gate(mass)
        for module, attribute in owners[id(weight)]:
            parametrize.register_parametrization(module, attribute, gate, unsafe=True)
            gated_reads.shorten(module, attribute)
            flat_weights.follow(module)
        gated.append(Gated(name, axis, gate, index.to(weight.device)))
    gates = {(g.tensor, g.axis): g.gate for g in gated}
    for community in communities.values():
        for route in community.slices:
            if route.role == "route":
                _watch_way(communities.model, community, route, gates)
    return gated


def _watch_way(
    model: nn.Module,
    community: Community,
    route: Slice,
    gates: Mapping[tuple[str, int], Gate],
) -> None:
    """Let a router choose no expert whose mass is 0."""
    (part,) = gated_slices(community)
    gate = gates[part.tensor, part.axis]
    module, attribute = owner(model, route.tensor)
    size = tensors_of(model)[route.tensor].shape[route.axis]
    places = torch.full((size,), gate.mass.numel())
    places[route.index[:, 0]] = part.index[:, 0]
    ways.Way(attribute, gate, places).attach(module)


def masses_of(communities: Communities) -> dict[str, Tensor]:
    """Return the mass of every population as its gates hold it: 1 where there is no gate."""
    found = {}
    for community in communities.values():
        found[community.name] = torch.ones(community.size)
        for part in gated_slices(community):
            module, attribute = owner(communities.model, part.tensor)
            if not _has_gates(module):
                continue
            for gate in module.get_submodule(f"parametrizations.{attribute}").children():
                if isinstance(gate, Gate) and gate.mass.shape[part.axis] == gate.mass.numel():
                    mass = gate.mass.detach().reshape(-1).float()
                    found[community.name] = mass[part.index[:, 0].to(mass.device)]
    return found


class Observer:
    """Base of the hooks that natsel puts on modules, so that they can be told from a user's."""


def fold(model: nn.Module) -> None:
    """Multiply every gate's mass into its weight for good, and remove the gates, in place.

    What observes the populations goes too. The parameters stay the same objects.
    """
    for module in list(model.modules()):
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, Observer):
                del module._forward_pre_hooks[key]
        ways.unwatch(module)
        if not _has_gates(module):
            continue
        for name in list(module.parametrizations.keys()):  # type: ignore[operator, union-attr]
            stack = module.parametrizations[name]  # type: ignore[index]
            gates = [p for p in stack if isinstance(p, Gate)]
            if gates:
                _own_class(module)
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            for gate in gates:
                # A shared weight has the mass now: its other places must not apply it again.
                gate.mass.fill_(1)
        flat_weights.restore(module)


def _has_gates(module: nn.Module) -> bool:
    stacks = module._modules.get("parametrizations")
    if not isinstance(stacks, nn.ModuleDict):
        return False
    return any(isinstance(p, Gate) for stack in stacks.values() for p in stack.children())


def _own_class(module: nn.Module) -> None:
    """Give a module a class of its own: copies share theirs, and removing a gate changes it."""
    kind = type(module)
    members = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = cast(type[nn.Module], type(kind.__name__, kind.__bases__, members))


def is_gated(model: nn.Module) -> bool:
    """Tell whether a model has gates."""
    return any(isinstance(module, Gate) for module in model.modules())


def folded(model: nn.Module) -> nn.Module:
    """Return a model without gates: itself if it has none, else a copy with masses folded in."""
    if not is_gated(model):
        return model
    plain = copy.deepcopy(model)
    fold(plain)
    return plain
