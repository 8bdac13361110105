"""Gates: a population's mass multiplies the weights that read it, O(weights), not O(batch)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from natsel.communities.community import Communities


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


def owner(model: nn.Module, tensor: str) -> tuple[nn.Module, str]:
    """Return the module that holds a tensor, and the tensor's name there."""
    path, _, name = tensor.rpartition(".")
    return model.get_submodule(path), name


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
    parameters = dict(communities.model.named_parameters())
    for community in communities.values():
        for part in community.gates:
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
        module, _ = owner(communities.model, name)
        if parametrize.is_parametrized(module) and not _has_gates(module):
            raise ValueError(
                f"communities={communities!r} is not allowed: the module of {name} has a "
                "parametrization of its own; remove it with torch.nn.utils.parametrize first"
            )
    gated = []
    for (name, axis), index in places.items():
        module, attribute = owner(communities.model, name)
        weight = parameters[name]
        shape = [1] * weight.dim()
        shape[axis] = -1
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        mass = torch.ones(len(index), device=weight.device, dtype=dtype).reshape(shape)
        gate = Gate(mass)
        parametrize.register_parametrization(module, attribute, gate, unsafe=True)
        gated.append(Gated(name, axis, gate, index.to(weight.device)))
    return gated


def masses_of(communities: Communities) -> dict[str, Tensor]:
    """Return the mass of every population as its gates hold it: 1 where there is no gate."""
    found = {}
    for community in communities.values():
        found[community.name] = torch.ones(community.size)
        for part in community.gates:
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
        if not _has_gates(module):
            continue
        # torch's own removal deletes the property from a class that deep copies share.
        stacks = module._modules.pop("parametrizations")
        assert isinstance(stacks, nn.ModuleDict)
        module.__class__ = type(module).__bases__[0]
        for name, stack in stacks.items():
            assert isinstance(stack, parametrize.ParametrizationList)
            original = stack._parameters["original"]
            assert original is not None
            with torch.no_grad():
                original.copy_(stack())
            module.register_parameter(name, original)


def _has_gates(module: nn.Module) -> bool:
    stacks = module._modules.get("parametrizations")
    if not isinstance(stacks, nn.ModuleDict):
        return False
    return any(isinstance(p, Gate) for stack in stacks.values() for p in stack.children())


def is_gated(model: nn.Module) -> bool:
    """Tell whether a model has gates."""
    return any(isinstance(module, Gate) for module in model.modules())
