"""One way to write a size: what a graph says in several ways is brought into one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from natsel.communities.labels.graph import operator_name

aten = torch.ops.aten
SPLITS = (
    "aten.split.Tensor",
    "aten.chunk.default",
    "aten.tensor_split.sections",
    "aten.tensor_split.indices",
)
VIEWS = ("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")
CHECKS = ("aten._assert_tensor_metadata.default",)


def normalise(module: fx.GraphModule) -> fx.GraphModule:
    """Return a graph in which every size that may have to follow stands for itself.

    Parts of unequal length need a length each, so every split names them. A start counted from
    the end is counted from the beginning. A length computed from the batch size becomes -1: the
    other numbers tell it. Checks of a type go: they would tie the program to one precision.

    Args:
        module: an exported graph with its shapes; it is not changed.

    Returns:
        A graph that computes the same.
    """
    graph = copied(module.graph)
    for node in list(graph.nodes):
        name = operator_name(node)
        if name in CHECKS:
            graph.erase_node(node)
        elif name in SPLITS:
            _name_lengths(node)
        elif name in ("aten.slice.Tensor", "aten.narrow.default"):
            _count_from_start(node)
        elif name in VIEWS:
            _leave_one_open(node)
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)


def copied(graph: fx.Graph) -> fx.Graph:
    """Return a graph with the same nodes, that takes and returns plain values."""
    new = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    new.output(new.graph_copy(graph, nodes))
    for old, node in nodes.items():
        node.meta = dict(old.meta)
    return new


def _sizes(value: Any) -> tuple[int | torch.SymInt, ...]:
    assert isinstance(value, fx.Node)
    found: Tensor = value.meta["val"]
    return tuple(found.shape)


def _name_lengths(node: fx.Node) -> None:
    axis = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    assert isinstance(axis, int)
    lengths = [part.shape[axis] for part in node.meta["val"]]
    if all(isinstance(length, int) for length in lengths):
        node.target = aten.split_with_sizes.default
        node.args, node.kwargs = (node.args[0], lengths, axis), {}


def _count_from_start(node: fx.Node) -> None:
    given: list[Any] = [*node.args, *[None] * (5 - len(node.args))]
    source, axis, start, end, step = given
    axis = axis or 0
    size = _sizes(source)[axis]
    if operator_name(node) == "aten.narrow.default":
        if not isinstance(start, int) or not isinstance(end, int):
            return
        start = start + size if start < 0 else start
        end, step = start + end, 1
    start, end = 0 if start is None else start, 2**63 - 1 if end is None else end
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        start, end, _ = slice(start, end).indices(size)
        node.target = aten.slice.Tensor
        node.args = (source, axis, start, max(start, end), 1 if step is None else step)


def _leave_one_open(node: fx.Node) -> None:
    given: Any = node.args[1]
    sizes: list[Any] = list(given)
    open_ones = [i for i, size in enumerate(sizes) if not isinstance(size, int)]
    if len(open_ones) == 1 and -1 in sizes and isinstance(node.meta["val"], Tensor):
        # The other one that is open is a number: the batch is told by all others then.
        place = sizes.index(-1)
        told = node.meta["val"].shape[place]
        sizes[place] = told if isinstance(told, int) else -1
    if len(open_ones) == 1 and -1 not in sizes:
        new = list(sizes)
        new[open_ones[0]] = -1
        node.args = (node.args[0], new)
