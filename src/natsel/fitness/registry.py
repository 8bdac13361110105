"""The one table of fitness signals, and what a signal may look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from natsel.common.importing import check_call
from natsel.common.registry import Registry
from natsel.common.sharding.local import Shard


class Part(NamedTuple):
    """One slice of a community with its numbers.

    Attributes:
        weight: the tensor (ungated, where it is gated).
        gradient: dL/dweight, or None where nobody asked for it or the weight is frozen.
        axis: the axis along which populations lie.
        index: places of each population, ``[size, width]``.
        whole: True if the axis holds exactly one place per population, in order.
        activation: a statistic of what enters here, per place along the axis (of "products", per
            pair of places), or None.
        name: of the tensor in the model.
        shard: where the weight and its gradient begin in the whole, if they are this process's
            share of it; what :meth:`per_place` returns is of the whole all the same.
    """

    weight: Tensor
    gradient: Tensor | None
    axis: int
    index: Tensor  # type: ignore[assignment]
    whole: bool
    activation: Tensor | None = None
    name: str = "a weight"
    shard: Shard | None = None

    def per_population(self, value: Tensor) -> Tensor:
        """Sum a tensor of the weight's shape over everything but the population: ``[size]``."""
        return self.gather(self.per_place(value))

    def per_place(self, value: Tensor) -> Tensor:
        """Sum a tensor of the weight's shape over everything but the axis."""
        others = [i for i in range(value.dim()) if i != self.axis]
        sums = value.sum(others) if others else value
        return sums if self.shard is None else self.shard.total(self.axis, sums).to(sums.dtype)

    def gather(self, per_place: Tensor) -> Tensor:
        """Sum numbers per place of the axis over the places of each population: ``[size]``."""
        return per_place if self.whole else per_place[self.index].sum(1)


class Parts(NamedTuple):
    """What a fitness looks at for one community.

    Attributes:
        consumers: the weights that read the populations; their masses gate here.
        producers: the weights that make them.
        mass: current masses ``[size]``.
    """

    consumers: tuple[Part, ...]
    producers: tuple[Part, ...]
    mass: Tensor


class Fitness(NamedTuple):
    """A local learning signal per population.

    Attributes:
        name: how users call it.
        signal: a pure function from :class:`Parts` to one number per population ``[size]``;
            it runs without autograd.
        needs_gradient: whether it reads gradients.
        statistic: what it needs of the activations that enter the consumers: "variance",
            "square" (the mean square), "products" (of all pairs, a matrix) or None.
        signed: whether it may be negative (it is averaged with its sign and then clipped at 0).
        branches: whether it says something of branches, too: of them it sees m dL/dm alone.
        by_sums: whether it looks at weights and gradients only element by element, and then through
            ``Part.per_place`` or ``Part.per_population``: then a share of them in each process
            will do. Of a model that is spread over processes other signals get whole tensors,
            which are gathered for them.
    """

    name: str
    signal: Callable[[Parts], Tensor]
    needs_gradient: bool = False
    statistic: str | None = None
    signed: bool = False
    branches: bool = False
    by_sums: bool = False


FITNESS: Registry[Fitness] = Registry("fitness")


def register(fitness: Fitness) -> Fitness:
    """Add a signal to the table, so that it has a name everywhere.

    Raises:
        ValueError: if the name is taken.
    """
    return FITNESS.add(fitness.name, fitness)


def get(
    fitness: str | Fitness | Callable[[Parts], Tensor], *, argument: str = "fitness"
) -> Fitness:
    """Look a signal up by name; a :class:`Fitness` or a bare function passes.

    A bare function gets gradients and may be negative.

    Args:
        fitness: a registered name, a signal, a function of :class:`Parts`, or ``module:name`` of
            one of these.
        argument: what the caller calls it, for messages.

    Returns:
        The signal.

    Raises:
        ValueError: if no signal has this name, or what was imported is none.
    """
    if isinstance(fitness, Fitness):
        return fitness
    if callable(fitness):
        name = getattr(fitness, "__name__", "custom")
        return Fitness(name, fitness, needs_gradient=True, signed=True)
    found = FITNESS.find_or_import(fitness, argument=argument)
    if not isinstance(found, Fitness):
        check_call(argument, fitness, found, "parts")
    return get(found)


def gradient_of(part: Part) -> Tensor:
    """Return the gradient of a slice.

    Raises:
        ValueError: if there is none.
    """
    if part.gradient is None:
        raise ValueError(
            f"{part.name} requires no gradient: a frozen weight tells no fitness; let it require "
            "one, or choose a signal that needs none, such as magnitude"
        )
    return part.gradient


def total(values: list[Tensor]) -> Tensor:
    """Add a list of tensors of one shape."""
    result = values[0]
    for value in values[1:]:
        result = result + value
    return result


def squares(parts: tuple[Part, ...]) -> Tensor:
    """Sum of squared weights per population over some slices: ``[size]``."""
    return total([p.per_population(p.weight.square()) for p in parts])
