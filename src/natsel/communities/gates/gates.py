"""Gates: a population's mass multiplies the weights that read it, O(weights), not O(batch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from natsel.communities.community import Communities, Community
from natsel.communities.copies import copied
from natsel.communities.gates import modules as gated_modules
from natsel.communities.gates.gating import (
    WHOLE,
    check,
    gated_slices,
    places_of,
    whole_places_of,
)
from natsel.communities.gates.observers import taken_off, unhook
from natsel.communities.gates.ways import Way
from natsel.communities.gates.weights import Gate, GatedWeight, inverted
from natsel.communities.routers import Router, router_of
from natsel.communities.tensors import owner, tensors_of

__all__ = [
    "Gate",
    "Gated",
    "acting",
    "drop",
    "fold",
    "folded",
    "gated_slices",
    "install",
    "is_gated",
    "masses_of",
    "suspended",
]


class Gated(NamedTuple):
    """One gated weight.

    Attributes:
        tensor: its name in the model.
        axis: the axis that reads populations; 0 where one mass is that of the whole tensor.
        gate: the gate, whose ``mass`` is broadcast along the other axes.
        places: for each place along the axis, the index of its population among all populations
            of all communities; the number of populations where there is none (its mass is 1).
    """

    tensor: str
    axis: int
    gate: Gate
    places: Tensor


def install(communities: Communities) -> list[Gated]:
    """Put a gate with mass 1 on every weight that reads a population.

    The parameters stay the same objects under the same names: an optimizer that holds them goes
    on, and so does whoever hooked them.

    Args:
        communities: of the model to gate; the model is changed.

    Returns:
        The gated weights.

    Raises:
        ValueError: if a weight is gated already, or computed from others; nothing has changed.
    """
    check(communities)
    model = communities.model
    parameters = dict(model.named_parameters())
    try:
        weights: dict[str, GatedWeight] = {}
        gated = []
        places = places_of(communities)
        whole = whole_places_of(communities)
        for (name, axis), index in (*places.items(), *whole.items()):
            weight = parameters[name]
            shape = [1] * weight.dim()
            shape[axis] = len(index)
            dtype = weight.dtype if weight.is_floating_point() else torch.float32
            mass = torch.ones(shape, device=weight.device, dtype=dtype)
            gate = Gate(mass, whole=axis == WHOLE)
            weights.setdefault(name, GatedWeight(weight)).gates.append(gate)
            gated.append(Gated(name, max(axis, 0), gate, index.to(weight.device)))
        _put(model, {id(w.parameter): w for w in weights.values()}, communities)
        gates = {(g.tensor, g.axis): g.gate for g in gated}
        for community in communities.values():
            if (router := router_of(community)) is not None:
                _watch_way(model, community, router, gates)
    except BaseException:
        drop(model)
        raise
    return gated


def _put(model: nn.Module, weights: dict[int, GatedWeight], communities: Communities) -> None:
    """Gate a shared weight wherever it is read, and mark what else is changed."""
    also = {
        id(model.get_submodule(router.path))
        for community in communities.values()
        if (router := router_of(community)) is not None
    }
    classes: gated_modules.Classes = {}
    for module in list(model.modules()):
        mine: dict[str, GatedWeight] = {}
        for position, (name, parameter) in enumerate(module._parameters.items()):
            if id(parameter) in weights:
                mine[name] = weights[id(parameter)]
                mine[name].position = position
        if mine or id(module) in also:
            gated_modules.put(module, mine, classes)


def _watch_way(
    model: nn.Module,
    community: Community,
    router: Router,
    gates: Mapping[tuple[str, int], Gate],
) -> None:
    """Let a router choose no expert whose mass is 0."""
    (part,) = gated_slices(community)
    gate = gates[part.tensor, part.axis]
    route = next(s for s in community.slices if s.role == "route")
    size = tensors_of(model)[route.tensor].shape[route.axis]
    places = torch.full((size,), gate.mass.numel())
    places[route.index.reshape(-1)] = part.index.reshape(-1)
    Way(router, gate, places).attach(model.get_submodule(router.path))


def masses_of(communities: Communities) -> dict[str, Tensor]:
    """Return the mass of every population as its gates hold it: 1 where there is no gate."""
    found = {}
    for community in communities.values():
        found[community.name] = torch.ones(community.size)
        for part in gated_slices(community):
            module, attribute = owner(communities.model, part.tensor)
            weight = (gated_modules.weights_of(module) or {}).get(attribute)
            for gate in weight.gates if weight is not None else ():
                if not gate.whole and gate.mass.shape[part.axis] == gate.mass.numel():
                    mass = gate.mass.detach().reshape(-1).float()
                    found[community.name] = mass[part.index[:, 0].to(mass.device)]
        for place, branch in enumerate(community.branches):
            module, attribute = owner(communities.model, branch.gates[0])
            weight = (gated_modules.weights_of(module) or {}).get(attribute)
            for gate in weight.gates if weight is not None else ():
                if gate.whole:
                    found[community.name][place] = gate.mass.detach().float().reshape(())
    return found


def fold(model: nn.Module) -> None:
    """Multiply every gate's mass into its weight for good, and remove the gates, in place.

    What observes the populations goes too. The parameters stay the same objects.
    """
    with torch.no_grad():
        for weight in _weights(model):
            weight.parameter.copy_(weight.product(weight.parameter))
    drop(model)


def drop(model: nn.Module) -> None:
    """Remove the gates, in place: the weights are what they are without their masses."""
    for module in model.modules():
        unhook(module)
    for module in gated_modules.touched(model.modules()):
        gated_modules.take_off(module)


@contextmanager
def suspended(model: nn.Module, *, fold: bool) -> Iterator[None]:
    """Take the gates off for a while.

    Afterwards each weight is what it was, bit for bit, but for elements that were changed
    meanwhile: those act as they do then.

    Args:
        model: any, gated or not.
        fold: whether the weights are as they act meanwhile, or as they are without their masses.
    """
    weights = _weights(model)
    raws = [w.parameter.detach().clone() for w in weights] if fold else []
    modules = [(m, m.__dict__[gated_modules.GATED]) for m in gated_modules.touched(model.modules())]
    classes = {(gated_modules.original_class(type(m)), tuple(own)): type(m) for m, own in modules}
    with torch.no_grad():
        for weight in weights if fold else ():
            weight.parameter.copy_(weight.product(weight.parameter))
    with taken_off(model):
        for module, _ in modules:
            gated_modules.take_off(module)
        try:
            yield
        finally:
            for module, own in modules:
                for name, weight in own.items():
                    found = module._parameters.get(name)
                    weight.parameter = weight.parameter if found is None else found
                gated_modules.put(module, own, classes)
            for weight in weights:
                for gate in weight.gates:
                    gate.mass = gate.mass.to(weight.parameter.device)
            with torch.no_grad():
                for weight, raw in zip(weights, raws, strict=False):
                    value = weight.parameter.detach()
                    weight.parameter.copy_(inverted(value, raw, weight.mass()))


def _weights(model: nn.Module) -> list[GatedWeight]:
    """Return the gated weights of a model, a shared one once, with their present parameters."""
    found: dict[int, GatedWeight] = {}
    for module in gated_modules.touched(model.modules()):
        for name, weight in module.__dict__[gated_modules.GATED].items():
            weight.parameter = module._parameters[name]
            found[id(weight)] = weight
    return list(found.values())


def acting(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function from a parameter of a model and its value to the value as it acts."""
    weights = {id(weight.parameter): weight for weight in _weights(model)}

    def product(parameter: Tensor, value: Tensor) -> Tensor:
        weight = weights.get(id(parameter))
        return value if weight is None else weight.product(value)

    return product


def is_gated(model: nn.Module) -> bool:
    """Tell whether a model has gates."""
    return bool(gated_modules.touched(model.modules()))


def folded(model: nn.Module) -> nn.Module:
    """Return a model without gates: itself if it has none, else a copy with masses folded in."""
    if not is_gated(model):
        return model
    plain = copied(model, {})
    fold(plain)
    return plain
