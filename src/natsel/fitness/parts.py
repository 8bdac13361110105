"""Gather what a fitness looks at: weights, gradients and activation statistics by community."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from natsel.communities import Communities, Community, Slice
from natsel.communities.gates import owner, ungated_name
from natsel.fitness.registry import Part, Parts

WeightKey = tuple[str, int]


class PartsReader:
    """Looks up, once, where the numbers of each community are, and reads them many times.

    Args:
        communities: whose populations to look at.
    """

    def __init__(self, communities: Communities) -> None:
        named = {ungated_name(n): p for n, p in communities.model.named_parameters()}
        self.names = list(communities)
        self._slices: list[tuple[list[_Place], list[_Place]]] = []
        for community in communities.values():
            consumers = [_Place(s, named) for s in community.slices if s.role == "in"]
            producers = [_Place(s, named) for s in community.slices if s.role == "out"]
            producers = producers or [
                _Place(s, named)
                for s in community.slices
                if s.role == "tied" and s.tensor in named and named[s.tensor].dim() > 1
            ]
            self._slices.append((consumers, producers))

    def weights(self) -> list[nn.Parameter]:
        """Return every parameter that a fitness may look at, once each."""
        found = {
            id(place.parameter): place.parameter
            for sides in self._slices
            for side in sides
            for place in side
        }
        return list(found.values())

    def read(
        self,
        position: int,
        mass: Tensor,
        gradient: Callable[[nn.Parameter], Tensor | None],
        statistics: Mapping[WeightKey, Tensor] | None = None,
    ) -> Parts:
        """Return the numbers of one community now.

        Args:
            position: which community, in the order of ``names``.
            mass: its masses ``[size]``.
            gradient: from a parameter to its gradient.
            statistics: activation statistics by (tensor, axis).
        """
        consumers, producers = self._slices[position]
        return Parts(
            tuple(p.part(gradient, statistics) for p in consumers),
            tuple(p.part(gradient, None) for p in producers),
            mass,
        )


class _Place:
    def __init__(self, part: Slice, named: Mapping[str, nn.Parameter]) -> None:
        self.key = (part.tensor, part.axis)
        self.parameter = named[part.tensor]
        self.axis = part.axis
        self.index = part.index.to(self.parameter.device)
        size = self.parameter.shape[part.axis]
        self.whole = part.index.shape == (size, 1) and bool(
            (part.index.reshape(-1) == torch.arange(size)).all()
        )

    def part(
        self,
        gradient: Callable[[nn.Parameter], Tensor | None],
        statistics: Mapping[WeightKey, Tensor] | None,
    ) -> Part:
        activation = statistics.get(self.key) if statistics else None
        return Part(
            self.parameter.detach(),
            gradient(self.parameter),
            self.axis,
            self.index,
            self.whole,
            activation,
        )


class Watch:
    """Averages a statistic of what enters each consumer, batch by batch, in place.

    Args:
        communities: whose consumers to watch.
        statistic: "variance" or "square" (the mean square).

    Raises:
        ValueError: if a consumer's weight does not belong to a module that reads one input.
    """

    def __init__(self, communities: Communities, statistic: str) -> None:
        self._statistic = statistic
        self._sums: dict[WeightKey, Tensor] = {}
        self._squares: dict[WeightKey, Tensor] = {}
        self._counts: dict[WeightKey, int] = {}
        self._handles = []
        seen: set[WeightKey] = set()
        for community in communities.values():
            for part in community.gates:
                key = (part.tensor, part.axis)
                if key not in seen:
                    seen.add(key)
                    self._handles.append(self._hook(communities.model, community, key))

    def _hook(
        self, model: nn.Module, community: Community, key: WeightKey
    ) -> torch.utils.hooks.RemovableHandle:
        module, _ = owner(model, key[0])
        convolution = isinstance(module, nn.modules.conv._ConvNd)
        if not convolution and not isinstance(module, nn.Linear):
            raise ValueError(
                f"fitness={self._statistic!r} is not allowed for community {community.name!r}: "
                f"its consumer {key[0]} is not a Linear or a convolution; use taylor or magnitude"
            )

        def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            axis = 1 if convolution else x.dim() - 1
            others = [i for i in range(x.dim()) if i != axis]
            count = x.numel() // x.shape[axis]
            x = x.float()
            self._counts[key] = self._counts.get(key, 0) + count
            squares = x.square().sum(others)
            self._squares[key] = self._squares[key] + squares if key in self._squares else squares
            if self._statistic == "variance":
                sums = x.sum(others)
                self._sums[key] = self._sums[key] + sums if key in self._sums else sums

        return module.register_forward_pre_hook(observe)

    def read(self) -> dict[WeightKey, Tensor]:
        """Return the statistic per consumer since the last :meth:`reset`: one number per place."""
        result = {}
        for key, squares in self._squares.items():
            value = squares / self._counts[key]
            if self._statistic == "variance":
                value = value - (self._sums[key] / self._counts[key]).square()
            result[key] = value.clamp_min(0)
        return result

    def reset(self) -> None:
        """Forget what was seen."""
        self._sums.clear()
        self._squares.clear()
        self._counts.clear()

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
