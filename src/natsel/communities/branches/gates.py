"""The parameters that are all the last operators of a branch read: where they are 0, so is it."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, fx

from natsel.communities.branches.flow import Flow
from natsel.communities.labels.graph import operator_name

LINEAR = (
    "aten.linear.default",
    "aten.addmm.default",
    "aten.conv1d.default",
    "aten.conv2d.default",
    "aten.conv3d.default",
    "aten.conv1d.padding",
    "aten.conv2d.padding",
    "aten.conv3d.padding",
    "aten.convolution.default",
    "aten._grouped_mm.default",
    "transformers.grouped_mm_fallback.default",
    "aten.mm.default",
    "aten.bmm.default",
    "aten.matmul.default",
)
AFFINE = (
    "aten.batch_norm.default",
    "aten._native_batch_norm_legit_no_training.default",
    "aten._native_batch_norm_legit.default",
    "aten.layer_norm.default",
    "aten.native_layer_norm.default",
    "aten.group_norm.default",
    "aten.rms_norm.default",
)
ALL = (
    "aten.add.Tensor",
    "aten.sub.Tensor",
    "aten.cat.default",
    "aten.stack.default",
    "aten.index_add.default",
    "aten.where.self",
)
"""They give 0 where all that enters them is 0."""
ANY = ("aten.mul.Tensor", "aten.mul.Scalar")
"""They give 0 where one of what enters them is 0."""
FIRST = (
    "aten.div.Tensor",
    "aten.div.Scalar",
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.permute.default",
    "aten.transpose.int",
    "aten.t.default",
    "aten.dropout.default",
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.alias.default",
    "aten.expand.default",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.unsqueeze.default",
    "aten.slice.Tensor",
    "aten.select.int",
    "aten.index.Tensor",
    "aten.sum.dim_IntList",
    "aten.mean.dim",
    "aten.flatten.using_ints",
    "aten._to_copy.default",
    "aten.to.dtype",
    "aten.type_as.default",
    "aten.roll.default",
    "aten.pad.default",
    "aten.constant_pad_nd.default",
    "aten.relu.default",
    "<built-in function getitem>",
)
"""They give 0 where the first thing that enters them is 0."""


class Gates(NamedTuple):
    """What closes a branch.

    Attributes:
        tensors: names of parameters that only the branch reads, first names.
        scale: whether a factor on all of them is one on what the branch adds.
    """

    tensors: tuple[str, ...]
    scale: bool


def gates_of(value: fx.Node, inside: frozenset[fx.Node], flow: Flow) -> Gates | None:
    """Return the parameters whose being 0 makes a value 0, whatever else enters.

    Args:
        value: what a branch adds.
        inside: the nodes that only the branch needs.
        flow: of the graph.

    Returns:
        The parameters; None where none are found.
    """
    return _Search(inside, flow).run(value)


class _Search:
    def __init__(self, inside: frozenset[fx.Node], flow: Flow) -> None:
        self._inside = inside
        self._flow = flow

    def run(self, node: fx.Node) -> Gates | None:
        if node not in self._inside or node.op == "placeholder":
            return None
        name = operator_name(node)
        entering = self._flow.entering[node]
        if name in LINEAR:
            return self._taken([n for n in entering if n in self._flow.fixed])
        if name in AFFINE:
            return self._taken([self._flow.source(n) for n in _affine(node, name)])
        if name in ALL:
            return self._all([n for n in entering if _is_floating(n) and not _is_zero(n)])
        if name in ANY:
            return self._any(entering)
        return self.run(entering[0]) if name in FIRST else None

    def _all(self, nodes: list[fx.Node]) -> Gates | None:
        found = [self.run(n) for n in nodes]
        tensors: dict[str, None] = {}
        for each in found:
            if each is None:
                return None
            tensors |= dict.fromkeys(each.tensors)
        return Gates(tuple(tensors), all(each.scale for each in found if each)) if found else None

    def _any(self, nodes: list[fx.Node]) -> Gates | None:
        """Look behind one factor of a product; the largest are tried first."""
        for node in sorted(nodes, key=_size, reverse=True):
            found = self.run(node)
            if found is not None:
                others = [n for n in nodes if n is not node]
                return found._replace(scale=found.scale and not self._depend(others, found))
        return None

    def _depend(self, nodes: list[fx.Node], gates: Gates) -> bool:
        """Tell whether other factors are computed from what the gates scale, as a norm is."""
        readers = {
            user
            for n in self._inside
            if self._flow.name(n) in gates.tensors
            for user in self._flow.users[n]
        }
        return any(n in readers or readers & self._flow.ancestors.get(n, set()) for n in nodes)

    def _taken(self, nodes: list[fx.Node]) -> Gates | None:
        names = [name for node in nodes for name in self._flow.behind(node)]
        mine = {self._flow.name(n) for n in self._inside}
        if not names or any(name not in mine for name in names):
            return None
        return Gates(tuple(dict.fromkeys(names)), True)


def _affine(node: fx.Node, name: str) -> list[fx.Node]:
    """Return the weight and the bias of a normalisation."""
    places = {"batch": (1, 3), "layer": (2, 4), "rms": (2, 3), "group": (2, 4)}
    start, stop = next(place for kind, place in places.items() if f"{kind}_" in name)
    given: list[Any] = list(node.args[start:stop])
    return [n for n in given if isinstance(n, fx.Node)]


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_zero(node: fx.Node) -> bool:
    return operator_name(node).startswith(("aten.zeros", "aten.new_zeros"))


def _size(node: fx.Node) -> int:
    value = node.meta.get("val")
    return int(value.numel()) if isinstance(value, Tensor) else 0
