"""Gather what a fitness looks at: weights, gradients and activation statistics by community."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from natsel.communities import Communities, Community, Slice
from natsel.communities.gates.gating import gated_slices
from natsel.communities.tensors import owner
from natsel.fitness.registry import Part, Parts, gradient_of, total
from natsel.fitness.running import Products, Running

WeightKey = tuple[str, int]
CONV1D = "transformers.pytorch_utils.Conv1D"
"""A Linear with its weight transposed."""


class PartsReader:
    """Looks up, once, where the numbers of each community are, and reads them many times.

    Args:
        communities: whose populations to look at.
    """

    def __init__(self, communities: Communities) -> None:
        named = dict(communities.model.named_parameters())
        self.names = list(communities)
        self._slices: list[tuple[list[_Place], list[_Place]]] = []
        for community in communities.values():
            consumers = gated_slices(community)
            self._slices.append(
                (
                    [_Place(s, communities.model) for s in consumers],
                    [_Place(s, communities.model) for s in _producers(community, consumers, named)],
                )
            )

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

    def mass_gradient(
        self, position: int, gradient: Callable[[nn.Parameter], Tensor | None]
    ) -> Tensor:
        """Return m dL/dm of one community, as :mod:`natsel.fitness.taylor` defines it.

        The same numbers as from :meth:`read`, without what only other signals look at: in a small
        network, gathering costs more than the arithmetic.

        Args:
            position: which community, in the order of ``names``.
            gradient: from a parameter to its gradient.

        Raises:
            ValueError: if a weight is frozen.
        """
        consumers, _ = self._slices[position]
        return total([place.contract(gradient(place.parameter)) for place in consumers])


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


class _Place:
    def __init__(self, part: Slice, model: nn.Module) -> None:
        self.key = (part.tensor, part.axis)
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

    def contract(self, gradient: Tensor | None) -> Tensor:
        """Return the product with a gradient, summed over everything but the population."""
        if gradient is None:
            return gradient_of(self.part(lambda _: None, None))
        value = self.parameter * gradient
        if self._others:
            value = value.sum(self._others)
        if self.whole:
            return value
        return value.view(self.index.shape).sum(1) if self._in_rows else value[self.index].sum(1)

    def part(
        self,
        gradient: Callable[[nn.Parameter], Tensor | None],
        statistics: Mapping[WeightKey, Tensor] | None,
    ) -> Part:
        activation = None
        if statistics is not None:
            activation = statistics.get(self.key)
            if activation is None:
                activation = self.parameter.new_zeros(self.parameter.shape[self.axis])
        return Part(
            self.parameter,
            gradient(self.parameter),
            self.axis,
            self.index,
            self.whole,
            activation,
            self.key[0],
        )


class Watch:
    """Averages a statistic of what enters each consumer, batch by batch.

    Args:
        communities: whose consumers to watch.
        statistic: "variance", "square" (the mean square) or "products" (the mean products of all
            pairs of places, a matrix).
        training: look only at forward passes that record gradients, so that a validation between
            two training steps leaves no trace.
        asked: what the user asked for, for messages: ``scorer='wanda'``, say.

    Raises:
        ValueError: if a consumer's weight does not belong to a module that reads one input.
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
        self._observers: dict[WeightKey, Running] = {}
        # It reads the weight of this Linear without calling it: nothing would be seen to enter.
        unseen = {
            m.out_proj for m in communities.model.modules() if isinstance(m, nn.MultiheadAttention)
        }
        for community in communities.values():
            for part in gated_slices(community):
                module, _ = owner(communities.model, part.tensor)
                axis = None if module in unseen else input_axis(module)
                if axis is None:
                    raise ValueError(
                        f"{asked} is not allowed for community {community.name!r}: "
                        f"its consumer {part.tensor} is not a Linear or an ungrouped convolution; "
                        "use taylor or magnitude"
                    )
                self._observers[part.tensor, part.axis] = (
                    Products(axis, training)
                    if statistic == "products"
                    else Running(axis, statistic, training)
                )
        self._handles = [
            owner(communities.model, tensor)[0].register_forward_pre_hook(observer)
            for (tensor, _), observer in self._observers.items()
        ]

    def read(self) -> dict[WeightKey, Tensor]:
        """Return the statistic per consumer since the last :meth:`reset`: one number per place.

        A consumer that nothing entered is left out.

        Raises:
            ValueError: if nothing entered any of them.
        """
        found = {key: o.value() for key, o in self._observers.items() if o.seen}
        if not found:
            raise ValueError(
                "no activation was seen: run the model on samples, with gradients where it "
                "trains, before its activations are read"
            )
        return found

    def one_by_one(self) -> Mapping[WeightKey, Tensor]:
        """Return the same as :meth:`read`, each made when it is asked for: matrices take room."""
        return _Asked({key: o for key, o in self._observers.items() if o.seen})

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


class _Asked(Mapping[WeightKey, Tensor]):
    def __init__(self, observers: dict[WeightKey, Running]) -> None:
        self._observers = observers

    def __getitem__(self, key: WeightKey) -> Tensor:
        return self._observers[key].value()

    def __iter__(self) -> Iterator[WeightKey]:
        return iter(self._observers)

    def __len__(self) -> int:
        return len(self._observers)


def input_axis(module: nn.Module) -> int | None:
    """Return the axis, from the end, along which a module reads its input, if there is one."""
    if isinstance(module, nn.Linear):
        return -1
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups == 1:
        return -1 - len(module.kernel_size)
    if any(f"{kind.__module__}.{kind.__name__}" == CONV1D for kind in type(module).__mro__):
        return -1
    return None
