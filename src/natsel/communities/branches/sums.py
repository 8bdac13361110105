"""Residual sums in an exported graph: what is added to a stream, and could be 0.

A sum ``s + a + b + ...`` is residual where one summand s is where all others come from: each of
them is computed from s. s is the stream; the others are branches. Sums follow one another in one
stream where the s of the later one comes from the earlier one through nothing but operators that
keep its shape and read one tensor of data: normalisations, activations, dropout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from natsel.communities.branches.flow import Flow
from natsel.communities.labels.graph import operator_name, shape_of

ADDITIONS = ("aten.add.Tensor", "aten.add_.Tensor")


@dataclass(frozen=True, eq=False)
class Summand:
    """What one branch adds to its stream.

    Attributes:
        value: the node that is added.
        user: the sum.
        inside: the nodes that nothing else needs.
        stream: the number of the stream.
        before: the node that is the stream before it.
        total: the whole sum.
        alone: whether it is all that the sum adds.
    """

    value: fx.Node
    user: fx.Node
    inside: frozenset[fx.Node]
    stream: int
    before: fx.Node
    total: fx.Node
    alone: bool


def summands_of(flow: Flow) -> list[Summand]:
    """Return what is added to the streams of a graph, in order."""
    sums: list[tuple[fx.Node, fx.Node, list[tuple[fx.Node, fx.Node]]]] = []
    inner: set[fx.Node] = set()
    for node in reversed(flow.nodes):
        if node in inner or node in flow.fixed or not _adds(node):
            continue
        edges = list(_flattened(node, flow, inner))
        stream = _stream_among([value for value, _ in edges], flow.ancestors)
        if stream is not None:
            rest = [(value, user) for value, user in edges if value is not stream]
            sums.append((node, stream, rest))
    streams: dict[fx.Node, int] = {}
    result = []
    for total, stream, rest in reversed(sums):
        before = _same_stream(stream, streams, flow)
        number = streams[before] if before is not None else len(set(streams.values()))
        streams[total] = number
        for value, user in reversed(rest):
            inside = flow.only_for(value, user)
            result.append(Summand(value, user, inside, number, stream, total, len(rest) == 1))
    order = {node: place for place, node in enumerate(flow.nodes)}
    return sorted(result, key=lambda summand: order[summand.value])


def _adds(node: fx.Node) -> bool:
    if node.op != "call_function" or operator_name(node) not in ADDITIONS:
        return False
    first, second = node.args[:2]
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return False
    values = (first.meta.get("val"), second.meta.get("val"), node.meta.get("val"))
    if not all(isinstance(value, Tensor) and value.is_floating_point() for value in values):
        return False
    same = shape_of(first) == shape_of(second) == shape_of(node)
    return same and bool(node.kwargs.get("alpha", 1) == 1)


def _flattened(node: fx.Node, flow: Flow, inner: set[fx.Node]) -> Iterable[tuple[fx.Node, fx.Node]]:
    """Yield the summands of a sum of sums, each with the sum that reads it."""
    for value in flow.entering[node]:
        if _adds(value) and len(flow.users[value]) == 1 and value not in flow.fixed:
            inner.add(value)
            yield from _flattened(value, flow, inner)
        else:
            yield value, node


def _stream_among(values: list[fx.Node], behind: Mapping[fx.Node, set[fx.Node]]) -> fx.Node | None:
    """Return the summand that all others come from, if there is one."""
    for candidate in values:
        others = [value for value in values if value is not candidate]
        if others and all(candidate in behind.get(other, ()) for other in others):
            return candidate
    return None


def _same_stream(stream: fx.Node, streams: Mapping[fx.Node, int], flow: Flow) -> fx.Node | None:
    """Return the earlier sum that a stream comes from, through what keeps its shape."""
    node = stream
    while node not in streams:
        entering = [n for n in flow.entering.get(node, []) if n not in flow.fixed]
        if len(entering) != 1 or node.op != "call_function":
            return None
        before, after = entering[0].meta.get("val"), node.meta.get("val")
        if isinstance(before, Tensor) and isinstance(after, Tensor) and before.shape != after.shape:
            return None
        node = entering[0]
    return node
