"""Gather what a fitness looks at: weights, gradients and activation statistics by community."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from natsel.common.sharding.local import Shard, is_spread, local, whole
from natsel.common.sharding.reducing import rank_in
from natsel.common.showing import counted
from natsel.communities import Communities, Community, Slice
from natsel.communities.gates.gating import gated_slices
from natsel.communities.tensors import owner
from natsel.fitness.depth.whole import WholeBranches
from natsel.fitness.pooling import pooled
from natsel.fitness.registry import Part, Parts, gradient_of, total
from natsel.fitness.running import Last, Products, Running

WeightKey = tuple[str, int]
Gradient = Callable[[nn.Parameter], Tensor | None]
"""From a parameter to its gradient; None where it is frozen."""
Weight = Callable[[nn.Parameter], Tensor]
"""From a parameter to all of it."""
CONV1D = "transformers.pytorch_utils.Conv1D"
"""A Linear with its weight transposed."""


class PartsReader:
    """Looks up, once, where the numbers of each community are, and reads them many times.

    Args:
        communities: whose populations to look at.
    """

    def __init__(self, communities: Communities) -> None:
        named = dict(communities.model.named_parameters())
        watched = readers_of(communities)
        self.names = list(communities)
        self._slices: list[tuple[Sequence[_Reads], Sequence[_Reads]]] = []
        for community in communities.values():
            if community.branches:
                self._slices.append(([WholeBranches(community, communities.model)], []))
                continue
            consumers = gated_slices(community)
            self._slices.append(
                (
                    [_Place(s, communities.model, watched) for s in consumers],
                    [
                        _Place(s, communities.model, watched)
                        for s in _producers(community, consumers, named)
                    ],
                )
            )

    def weights(self) -> list[nn.Parameter]:
        """Return every parameter that a fitness may look at, once each."""
        found = {
            id(parameter): parameter
            for sides in self._slices
            for side in sides
            for place in side
            for parameter in place.parameters
        }
        return list(found.values())

    def parameters(self, position: int) -> list[nn.Parameter]:
        """Return every parameter that a fitness may look at for one community, once each."""
        places = (place for side in self._slices[position] for place in side)
        return list({id(p): p for place in places for p in place.parameters}.values())

    def read(
        self,
        position: int,
        mass: Tensor,
        gradient: Gradient,
        statistics: Mapping[WeightKey, Tensor] | None = None,
        *,
        by_sums: bool = False,
        weight: Weight | None = None,
    ) -> Parts:
        """Return the numbers of one community now.

        Args:
            position: which community, in the order of ``names``.
            mass: its masses ``[size]``.
            gradient: from a parameter to its gradient.
            statistics: activation statistics by (tensor, axis). Consumers that cannot be watched
                are left out then: what the others read is the same populations.
            by_sums: of tensors that are spread over processes, read the share of this one alone,
                for signals that add up element by element; else they are gathered.
            weight: from a parameter to all of it, where somebody has gathered that already.
        """
        consumers, producers = self._slices[position]
        if statistics is not None:
            consumers = [place for place in consumers if place.watched]
        return Parts(
            tuple(p.part(gradient, statistics, by_sums, weight) for p in consumers),
            tuple(p.part(gradient, None, by_sums, weight) for p in producers),
            mass,
        )

    def mass_gradient(self, position: int, gradient: Gradient, group: Any = None) -> Tensor:
        """Return m dL/dm of one community, as :mod:`natsel.fitness.taylor` defines it.

        The same numbers as from :meth:`read`, without what only other signals look at: in a small
        network, gathering costs more than the arithmetic. Of a model that is spread over processes
        it is what this one contributes: the sum over all of them is m dL/dm.

        Args:
            position: which community, in the order of ``names``.
            gradient: from a parameter to its gradient.
            group: the processes that the model is spread over, if it is.

        Raises:
            ValueError: if a weight is frozen.
        """
        consumers, _ = self._slices[position]
        return total([place.contract(gradient, group) for place in consumers])


def _producers(
    community: Community, consumers: tuple[Slice, ...], named: Mapping[str, nn.Parameter]
) -> list[Slice]:
    """Return the slices that make the populations: of experts, every weight but the last."""
    made = [s for s in community.slices if s.role == "out"]
    made = made or [s for s in community.gates if s not in consumers]
    made = made or [
        s
        for s in community.slices
        if s.role == "tied" and s.tensor in named and named[s.tensor].dim() > 1
    ]
    # One weight that is read both ways makes what it reads.
    return made or list(consumers)


class _Reads(Protocol):
    """Where the numbers of a community are."""

    watched: bool

    @property
    def parameters(self) -> list[nn.Parameter]: ...

    def contract(self, given: Gradient, group: Any = None) -> Tensor: ...

    def part(
        self,
        gradient: Gradient,
        statistics: Mapping[WeightKey, Tensor] | None,
        by_sums: bool,
        weight: Weight | None,
    ) -> Part: ...


class _Place:
    def __init__(
        self, part: Slice, model: nn.Module, readers: Mapping[WeightKey, list[nn.Module]]
    ) -> None:
        self.key = (part.tensor, part.axis)
        self.watched = bool(readers.get(self.key))
        self._module, self._name = owner(model, part.tensor)
        self.axis = part.axis
        self.index = part.index.to(self.parameter.device)
        size = self.parameter.shape[part.axis]
        self.whole = part.index.shape == (size, 1) and bool(
            (part.index.reshape(-1) == torch.arange(size)).all()
        )
        self._others = [i for i in range(self.parameter.dim()) if i != part.axis]
        self._in_rows = torch.equal(part.index.reshape(-1).cpu(), torch.arange(size))

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that is there now: ``load_state_dict(assign=True)`` puts another."""
        found = self._module._parameters.get(self._name)
        if found is None:
            raise ValueError(
                f"{self.key[0]} is gone from the model (made another parameter, or spread over "
                "processes): make the Evolution again, after that"
            )
        return found

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are there now."""
        return [self.parameter]

    def contract(self, given: Gradient, group: Any = None) -> Tensor:
        """Return the product with a gradient, summed over everything but the population.

        Args:
            given: from a parameter to its gradient.
            group: the processes over which it is added up; this one gives what it contributes.
        """
        parameter = self.parameter
        gradient = given(parameter)
        if gradient is None:
            return gradient_of(self.part(lambda _: None, None))
        shard = Shard.of(parameter)
        value = local(parameter) * local(gradient) if shard else parameter * gradient
        if self._others:
            value = value.sum(self._others)
        if shard is not None:
            value = shard.along(self.axis, value)
        elif rank_in(group):  # every process has all of it: it counts once
            value = torch.zeros_like(value)
        if self.whole:
            return value
        return value.view(self.index.shape).sum(1) if self._in_rows else value[self.index].sum(1)

    def part(
        self,
        gradient: Gradient,
        statistics: Mapping[WeightKey, Tensor] | None,
        by_sums: bool = False,
        weight: Weight | None = None,
    ) -> Part:
        activation = None
        if statistics is not None:
            activation = statistics.get(self.key)
            if activation is None:
                activation = local(self.parameter).new_zeros(self.parameter.shape[self.axis])
        parameter, shard = self.parameter, None
        value = parameter if weight is None else weight(parameter)
        change = gradient(parameter)
        if is_spread(value):
            shard, read = (Shard.of(value), local) if by_sums else (None, whole)
            value, change = read(value), None if change is None else read(change)
        return Part(
            value,
            change,
            self.axis,
            self.index,
            self.whole,
            activation,
            self.key[0],
            shard,
        )


class Watch:
    """Averages a statistic of what enters each consumer, batch by batch.

    A weight that several modules hold is watched at those of them that read by it. Consumers that
    cannot be watched are left out.

    Args:
        communities: whose consumers to watch.
        statistic: "variance", "square" (the mean square) or "products" (the mean products of all
            pairs of places, a matrix).
        training: look only at forward passes that record gradients, so that a validation between
            two training steps leaves no trace.
        asked: what the user asked for, for messages: ``scorer='wanda'``, say.

    Raises:
        ValueError: if no consumer of a community can be watched.
    """

    def __init__(
        self,
        communities: Communities,
        statistic: str,
        *,
        training: bool = False,
        asked: str | None = None,
    ) -> None:
        asked = asked or f"statistic={statistic!r}"
        readers = readers_of(communities)
        for name, tensors in _unwatched(communities, readers).items():
            raise ValueError(_not_allowed(asked, name, tensors))
        self._observers: dict[WeightKey, Running] = {}
        self._sizes: dict[WeightKey, int] = {}
        self._device = next(communities.model.parameters()).device
        self._handles = []
        last = Last()
        for key, modules in readers.items():
            for module in modules:
                axis = input_axis(module)
                assert axis is not None
                if key not in self._observers:
                    self._observers[key] = (
                        Products(axis, training, last)
                        if statistic == "products"
                        else Running(axis, statistic, training)
                    )
                weight = module._parameters["weight"]
                assert weight is not None
                self._sizes[key] = weight.shape[key[1]]
                self._handles.append(module.register_forward_pre_hook(self._observers[key]))

    def read(self, group: Any = None) -> dict[WeightKey, Tensor]:
        """Return the statistic per consumer since the last :meth:`reset`: one number per place.

        A consumer that nothing entered is left out.

        Args:
            group: processes that saw other samples each, over all of which it is taken.

        Raises:
            ValueError: if nothing entered any of them.
        """
        if group is None:
            found = {key: o.value() for key, o in self._observers.items() if o.seen}
        else:
            found = pooled(self._observers, self._sizes, group, self._device)
        if not found:
            raise ValueError(
                "no activation was seen: run the model on samples, with gradients where it "
                "trains, before its activations are read"
            )
        return found

    def take(self, keys: Iterable[WeightKey]) -> dict[WeightKey, Tensor]:
        """Return the statistic of some consumers and forget what was seen of them.

        A consumer that nothing entered is left out.
        """
        found = {}
        for key in keys:
            observer = self._observers.get(key)
            if observer is not None and observer.seen:
                found[key] = observer.value()
                observer.reset()
        return found

    @property
    def has_seen(self) -> bool:
        """Whether anything entered any consumer since the last :meth:`reset`."""
        return any(observer.seen for observer in self._observers.values())

    def reset(self) -> None:
        """Forget what was seen."""
        for observer in self._observers.values():
            observer.reset()

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()


def watchable(communities: Communities, *, asked: str) -> Communities:
    """Return the communities of which some consumer can be watched, and say what is left out.

    Args:
        communities: some communities.
        asked: what the user asked for, for messages: ``scorer='wanda'``, say.

    Raises:
        ValueError: if none is left.

    Example:
        >>> import natsel
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> watchable(natsel.discover(model, torch.zeros(1, 4)), asked="scorer='wanda'")
        Communities(0: 8 neurons)
    """
    left = _unwatched(communities, readers_of(communities))
    if not left:
        return communities
    name, tensors = next(iter(left.items()))
    if len(left) == len(communities):
        raise ValueError(_not_allowed(asked, name, tensors))
    warnings.warn(
        f"{asked} tells nothing of {counted(len(left), 'community', 'communities')}: "
        f"{', '.join(left)}. No consumer of {'it' if len(left) == 1 else 'theirs'} is a Linear or "
        f"an ungrouped convolution that is called ({tensors[0]} is not); a selection by these "
        "scores leaves them whole (remedy: score them by taylor or magnitude)",
        stacklevel=3,
    )
    return communities.without(left)


def readers_of(communities: Communities) -> dict[WeightKey, list[nn.Module]]:
    """Return, for every consumer that can be watched, the modules that read by its weight.

    A weight may be held by several modules, of which some do not read along its axis: that of a
    language model's head by the embedding too.
    """
    model = communities.model
    # It reads the weight of this Linear without calling it: nothing would be seen to enter.
    unseen = {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    holders: dict[int, list[nn.Module]] = defaultdict(list)
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight is not None and module not in unseen:
            holders[id(weight)].append(module)
    found: dict[WeightKey, list[nn.Module]] = {}
    for community in communities.values():
        for part in gated_slices(community):
            module, name = owner(model, part.tensor)
            held = holders.get(id(module._parameters.get(name)), [])
            modules = [m for m in held if weight_axis(m) == part.axis]
            if modules:
                found[part.tensor, part.axis] = modules
    return found


def _unwatched(
    communities: Communities, readers: Mapping[WeightKey, list[nn.Module]]
) -> dict[str, list[str]]:
    """Return the consumers of communities of which none can be watched, by their names."""
    left = {}
    for community in communities.values():
        consumers = gated_slices(community)
        if not any((part.tensor, part.axis) in readers for part in consumers):
            left[community.name] = [part.tensor for part in consumers]
    return left


def _not_allowed(asked: str, name: str, tensors: list[str]) -> str:
    return (
        f"{asked} is not allowed for community {name!r}: its consumer {tensors[0]} is not a Linear "
        "or an ungrouped convolution; use taylor or magnitude"
    )


def weight_axis(module: nn.Module) -> int | None:
    """Return the axis of a module's weight along which it reads its input, if there is one.

    Example:
        >>> weight_axis(nn.Linear(2, 3)), weight_axis(nn.ConvTranspose2d(2, 3, 1))
        (1, 0)
        >>> weight_axis(nn.Embedding(2, 3))
    """
    if input_axis(module) is None:
        return None
    is_stored_reversed = bool(getattr(module, "transposed", False)) or _is_conv1d(module)
    return 0 if is_stored_reversed else 1


def input_axis(module: nn.Module) -> int | None:
    """Return the axis, from the end, along which a module reads its input, if there is one."""
    if isinstance(module, nn.Linear):
        return -1
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups == 1:
        return -1 - len(module.kernel_size)
    return -1 if _is_conv1d(module) else None


def _is_conv1d(module: nn.Module) -> bool:
    return any(f"{kind.__module__}.{kind.__name__}" == CONV1D for kind in type(module).__mro__)
