"""Who needs whom in an exported graph: what does nothing, and what nobody needs, left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property

from torch import Tensor, fx

from natsel.communities.labels.graph import made_of, operator_name

NOTHING_DONE = (
    "aten.to.dtype",
    "aten.to.device",
    "aten.to.dtype_layout",
    "aten.type_as.default",
    "aten.contiguous.default",
    "aten.alias.default",
)
"""They return the very tensor that they are given, where it is as they want it."""


class Flow:
    """The operators of a graph that an output needs, with what enters them and who reads them.

    An operator that returns its input as it is stands for that input.

    Args:
        graph: of an exported program; not changed.
        held: names of parameters and buffers by placeholder.
    """

    def __init__(self, graph: fx.Graph, held: Mapping[str, str]) -> None:
        self.held = held
        self._same: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            first = node.all_input_nodes[0] if node.all_input_nodes else None
            if first is not None and _does_nothing(node, first):
                self._same[node] = self.source(first)
        self.entering: dict[fx.Node, list[fx.Node]] = {}
        self.users: dict[fx.Node, set[fx.Node]] = defaultdict(set)
        for node in reversed(graph.nodes):
            if node in self._same or not (node.op == "output" or self.users[node]):
                continue
            self.entering[node] = [self.source(n) for n in node.all_input_nodes]
            for each in self.entering[node]:
                self.users[each].add(node)
        self.nodes = [node for node in graph.nodes if node in self.entering]
        self.fixed = made_of(graph, held)

    def source(self, node: fx.Node) -> fx.Node:
        """Return the node whose very value a node has."""
        return self._same.get(node, node)

    def name(self, node: fx.Node) -> str | None:
        """Return the name of the tensor that a placeholder stands for; None of anything else."""
        return self.held.get(node.name) if node.op == "placeholder" else None

    def behind(self, node: fx.Node) -> list[str]:
        """Return the names of the tensors that a value made of tensors alone comes from."""
        found: dict[str, None] = {}
        waiting = [node]
        while waiting:
            each = waiting.pop()
            name = self.name(each)
            if name is not None:
                found[name] = None
            waiting += self.entering.get(each, [])
        return list(found)

    @cached_property
    def ancestors(self) -> dict[fx.Node, set[fx.Node]]:
        """All data that each value comes from."""
        found: dict[fx.Node, set[fx.Node]] = {}
        for node in self.nodes:
            mine: set[fx.Node] = set()
            for each in self.entering[node]:
                if each not in self.fixed:
                    mine.add(each)
                    mine |= found.get(each, set())
            found[node] = mine
        return found

    def only_for(self, value: fx.Node, user: fx.Node) -> frozenset[fx.Node]:
        """Return the nodes that only one use of a value needs, the value with them."""
        if self.users[value] != {user} or self.entering[user].count(value) != 1:
            return frozenset()
        inside = {value}
        waiting = [value]
        while waiting:
            for each in self.entering[waiting.pop()]:
                if each not in inside and self.users[each] <= inside:
                    inside.add(each)
                    waiting.append(each)
        return frozenset(inside)


def _does_nothing(node: fx.Node, first: fx.Node) -> bool:
    if node.op != "call_function" or operator_name(node) not in NOTHING_DONE:
        return False
    before, after = first.meta.get("val"), node.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return False
    return (before.dtype, before.device, before.shape) == (after.dtype, after.device, after.shape)
