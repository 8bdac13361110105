"""Sizes written as numbers in a graph: which there are, and what they become after a removal.

Everything follows from one thing: a place along an axis of a value remains unless all that is
there is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from natsel.communities.labels.graph import TensorRef, operator_name, place
from natsel.communities.labels.labels import NONE
from natsel.communities.programs.layout import Kept, Layout

OPEN = "open axes"
"""Where a node's metadata holds the axes whose length depends on the batch size."""


class Literal(NamedTuple):
    """A number among the arguments of a node, and what it has to be.

    Attributes:
        path: which argument, and which entry of it if that is a list.
        value: the number.
    """

    path: tuple[int, ...]
    value: int


Follower = Callable[["Remains", fx.Node], Iterator[Literal]]
FOLLOWERS: dict[str, Follower] = {}


def follows(*operators: str) -> Callable[[Follower], Follower]:
    """Register how the numbers of operators follow a removal."""

    def register(function: Follower) -> Follower:
        FOLLOWERS.update({f"aten.{name}": function for name in operators})
        return function

    return register


class Remains:
    """What remains of every value of a program after a removal.

    Args:
        layout: the populations of every value.
        kept: the places of tensors that remain.
    """

    def __init__(self, layout: Layout, kept: Kept) -> None:
        self.layout = layout
        self.kept = kept

    @cached_property
    def _dead(self) -> Tensor:
        return self.layout.dead_classes(self.kept)

    def of(self, value: Any) -> list[Tensor]:
        """Return, per axis of a value, which places remain.

        Raises:
            ValueError: if what remains is no rectangle.
        """
        assert isinstance(value, fx.Node)
        classes = self.layout.values[value][0]
        if isinstance(classes, TensorRef):
            return [self._of_axis(classes, axis) for axis in range(len(classes.axes))]
        dead = torch.isin(classes, self._dead)
        if not bool(dead.any()):
            return [torch.ones(size, dtype=torch.bool) for size in classes.shape]
        others = [tuple(j for j in range(dead.dim()) if j != i) for i in range(dead.dim())]
        unknown = classes == NONE
        alive = [~(_all(dead | unknown, over) & _any(dead, over)) for over in others]
        product = torch.ones((), dtype=torch.bool)
        for axis, places in enumerate(alive):
            shape = [1] * dead.dim()
            shape[axis] = -1
            product = product & places.reshape(shape)
        if bool(dead.all()):
            alive = _emptied(classes)
        elif bool((product & dead).any()):
            alive = []
        if not alive:
            raise ValueError(f"{unfollowable(value)} (what remains of it is no rectangle)")
        return alive

    def along(self, value: Any, axis: int, node: fx.Node) -> Tensor:
        """Return which places remain along an axis on which the numbers of a node are places.

        Raises:
            ValueError: if some go whose number depends on the batch size.
        """
        assert isinstance(value, fx.Node)
        places = self.of(value)[axis]
        if axis in value.meta.get(OPEN, ()) and not bool(places.all()):
            raise ValueError(f"{unfollowable(node)} (it counts along the batch)")
        return places

    def always(self, value: fx.Node, axis: int, index: int) -> bool:
        """Tell whether something at a place remains whatever is removed."""
        classes = self.layout.values[value][0]
        if isinstance(classes, TensorRef):
            return False
        return bool(self.layout.run.space.is_fixed(classes.select(axis, index)).any())

    def _of_axis(self, ref: TensorRef, axis: int) -> Tensor:
        stored = ref.axes[axis]
        alive = torch.ones(ref.shape[stored], dtype=torch.bool)
        places = self.kept.get(ref.name, {}).get(stored)
        if places is not None:
            alive[:] = False
            alive[places] = True
        return alive


def _emptied(classes: Tensor) -> list[Tensor]:
    """Return what remains where all is gone: no place on the axis that tells populations apart."""
    alive = [torch.ones(size, dtype=torch.bool) for size in classes.shape]
    axes = [i for i in range(classes.dim()) if bool((classes.diff(dim=i) != 0).any())]
    if len(axes) != 1:
        return []
    alive[axes[0]][:] = False
    return alive


def unfollowable(node: fx.Node) -> str:
    """Say which number cannot follow."""
    return f"a size in {operator_name(node)}{place(node)} cannot follow"


def changes(layout: Layout, kept: Kept) -> dict[str, int]:
    """Return the numbers of a program that a removal changes.

    Args:
        layout: the populations of every value.
        kept: the places of tensors that remain.

    Returns:
        The new numbers, by node and place among its arguments: ``{"view_1.1.2": 3}``.

    Raises:
        ValueError: if a number cannot follow.
    """
    remains = Remains(layout, kept)
    found = {}
    for node in layout.graph.nodes:
        follow = FOLLOWERS.get(operator_name(node))
        if follow is None:
            continue
        for path, value in follow(remains, node):
            old: Any = node.args
            for step in path:
                old = old[step]
            if old != value:
                found[".".join([node.name, *map(str, path)])] = value
    return found


def rewrite(graph: fx.Graph, numbers: Mapping[str, int]) -> None:
    """Write other numbers into a graph, in place.

    Args:
        graph: whose numbers to change.
        numbers: as :func:`changes` returns them.

    Raises:
        ValueError: if the graph has no size at one of the places.
    """
    nodes = {node.name: node for node in graph.nodes}
    for name, value in numbers.items():
        head, *steps = name.split(".")
        node = nodes.get(head)
        known = node is not None and operator_name(node) in FOLLOWERS
        if node is None or not known or not all(s.isdecimal() for s in steps) or not steps:
            raise ValueError(f"the program has no size at {name}")
        node.args = _replaced(node.args, [int(s) for s in steps], value, name)


def _all(mask: Tensor, axes: tuple[int, ...]) -> Tensor:
    return mask.all(dim=axes) if axes else mask


def _any(mask: Tensor, axes: tuple[int, ...]) -> Tensor:
    return mask.any(dim=axes) if axes else mask


def _replaced(old: Any, steps: list[int], value: int, name: str) -> Any:
    if not steps:
        if type(old) is not int or type(value) is not int:
            raise ValueError(f"the program has no size at {name}")
        return value
    if not isinstance(old, list | tuple) or steps[0] >= len(old):
        raise ValueError(f"the program has no size at {name}")
    new = list(old)
    new[steps[0]] = _replaced(old[steps[0]], steps[1:], value, name)
    return tuple(new) if isinstance(old, tuple) else new
