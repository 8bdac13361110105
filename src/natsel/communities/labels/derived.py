"""Weights that are computed from parameters, axis by axis: where a cut of the parameters shows."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

STANDARD = "natsel_mean"
"""Where a module that standardises its weight holds the means of its dense rows."""

Key = tuple[str, int]
"""A stored tensor and one of its axes."""


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a computed weight.

    Attributes:
        labels: of its places, ``[size]``.
        made: the axes of stored tensors that are cut with it, all of which make populations where
            the weight does.
        read: those of them in which the weight is linear, so that a zero, or a mass, in a place of
            them is one in the same place of the weight; None where there are none.
    """

    labels: Tensor
    made: tuple[Key, ...] = ()
    read: tuple[Key, ...] | None = None

    @property
    def size(self) -> int:
        """How many places it has."""
        return len(self.labels)


@dataclass(frozen=True)
class Share:
    """A parameter that a part of the products with a computed weight is charged to.

    Attributes:
        tensor: its name.
        axes: its axes that run along those of the weight.
        part: how much of the weight it is.
    """

    tensor: str
    axes: tuple[int, ...]
    part: float


@dataclass(frozen=True, eq=False)
class Derived:
    """A value that is computed from parameters alone, of which each axis follows theirs.

    Attributes:
        fine: its axes, before some were seen as one.
        groups: how many of them each axis of the value is, in order.
        shares: what its products cost.
    """

    fine: tuple[Axis, ...]
    groups: tuple[int, ...]
    shares: tuple[Share, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Its shape."""
        sizes, start = [], 0
        for count in self.groups:
            sizes.append(prod(axis.size for axis in self.fine[start : start + count]))
            start += count
        return tuple(sizes)

    @property
    def axes(self) -> tuple[int, ...]:
        """The numbers of its axes."""
        return tuple(range(len(self.groups)))

    def along(self, axis: int) -> tuple[Axis, ...]:
        """Return the axes that one axis of the value is made of."""
        start = sum(self.groups[:axis])
        return self.fine[start : start + self.groups[axis]]

    def parts(self) -> list[tuple[Axis, ...]]:
        """Return the same for all its axes."""
        return [self.along(axis) for axis in self.axes]


def of_parts(parts: list[tuple[Axis, ...]], shares: tuple[Share, ...] = ()) -> Derived:
    """Return a value with these axes, each of which may be several seen as one."""
    return Derived(tuple(a for p in parts for a in p), tuple(len(p) for p in parts), shares)
