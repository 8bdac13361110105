"""Which population every element of every value of a program belongs to."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from natsel.communities.labels.graph import TensorRef, operator_name, tensors_in
from natsel.communities.labels.labels import DATA, NONE
from natsel.communities.labels.propagation import Propagation
from natsel.communities.labels.rules.elementwise import BINARY, UNARY
from natsel.communities.labels.rules.shape import KEEPS, MOVES
from natsel.communities.programs.trace import Trace

Kept = Mapping[str, Mapping[int, Tensor]]
"""The places that remain, per tensor and axis."""

ELEMENTWISE = {f"aten.{name}" for name in (*KEEPS, *BINARY)} | {f"aten.{n}.default" for n in UNARY}
MOVING = {f"aten.{name}" for name in MOVES} | {
    "aten.cat.default",
    "aten.concat.default",
    "aten.stack.default",
    "aten.constant_pad_nd.default",
    "aten.pad.default",
}


@dataclass(frozen=True, eq=False)
class Layout:
    """The populations of every value of a program.

    Attributes:
        graph: the traced graph.
        run: the propagation over it.
        values: per node, the class of each element of each tensor that it returns; a weight is
            known by its axes instead.
    """

    graph: fx.Graph
    run: Propagation
    values: dict[fx.Node, list[Tensor | TensorRef]]

    def dead_classes(self, kept: Kept) -> Tensor:
        """Return the classes that go with the places of tensors that do not remain."""
        run = self.run
        found = [torch.empty(0, dtype=torch.int64)]
        for name, axes in kept.items():
            for axis, places in axes.items():
                if name not in run.shapes:
                    continue
                gone = torch.ones(run.shapes[name][axis], dtype=torch.bool)
                gone[places] = False
                index = gone.nonzero().reshape(-1)
                if (name, axis) in run.axis_labels:
                    found.append(run.axis_labels[name, axis][index])
                if name in run.lifted:
                    found.append(run.lifted[name].index_select(axis, index).reshape(-1))
        roots = run.space.roots(torch.cat(found))
        return roots[roots > DATA]


def lay_out(traced: Trace, canonical: dict[str, str]) -> Layout:
    """Propagate labels over a program and keep those of every value.

    A constant (a padded border, a tensor of zeros) belongs to no population of its own. Here it
    gets the labels of what it meets further on, because its size has to follow them.

    Args:
        traced: the program.
        canonical: the first name of every shared tensor.

    Returns:
        The classes of every value.
    """
    # The finest labels: whatever goes as a whole then goes as the sum of its parts.
    run = Propagation(traced.as_exported(), canonical, residual=True)
    values = {
        node: [_classes(run, found) for found in tensors_in(value)]
        for node, value in run.values.items()
    }
    for node in reversed(traced.graph.nodes):
        if node.target is operator.getitem:
            source, item = node.args
            for whole, part in zip(values[source][item : item + 1], values[node], strict=False):
                _fill(whole, part)
        elif node.op == "call_function":
            _fill_inputs(node, values)
    return Layout(traced.graph, run, values)


def _classes(run: Propagation, value: Tensor | TensorRef) -> Tensor | TensorRef:
    if isinstance(value, Tensor):
        return run.space.roots(value).clone()
    if value.name in run.lifted:
        return run.space.roots(run.lifted[value.name].permute(value.axes)).clone()
    return value


def _fill_inputs(node: fx.Node, values: dict[fx.Node, list[Tensor | TensorRef]]) -> None:
    """Give constants among the inputs of a node the labels of its result."""
    labels = {
        source: found
        for source in node.all_input_nodes
        for found in values[source]
        if isinstance(found, Tensor)
    }
    if not any(bool((found == NONE).any()) for found in labels.values()):
        return
    results = [r for r in values[node] if isinstance(r, Tensor)]
    name = operator_name(node)
    if name in ELEMENTWISE and results:
        for found in labels.values():
            _fill_broadcast(found, results[0])
    elif name in MOVING and len(labels) == len(node.all_input_nodes):
        _fill_moved(node, labels, results)


def _fill(classes: Tensor | TensorRef, result: Tensor | TensorRef) -> None:
    if isinstance(classes, Tensor) and isinstance(result, Tensor):
        classes.copy_(torch.where(classes == NONE, result, classes))


def _fill_broadcast(classes: Tensor, result: Tensor) -> None:
    """Take the labels of the result where the operand is not repeated over different ones."""
    shape = (1,) * (result.dim() - classes.dim()) + tuple(classes.shape)
    over = tuple(i for i, size in enumerate(shape) if size == 1 and result.shape[i] > 1)
    high = result.amax(dim=over, keepdim=True) if over else result
    low = result.amin(dim=over, keepdim=True) if over else result
    if high.shape == shape:
        _fill(classes, torch.where(high == low, high, NONE).reshape(classes.shape))


def _fill_moved(node: fx.Node, labels: dict[fx.Node, Tensor], results: list[Tensor]) -> None:
    """Run an operator that moves elements on their numbers, and bring the labels back."""
    numbers: dict[fx.Node, Tensor] = {}
    total = 1  # 0 is what a pad adds
    for source, found in labels.items():
        numbers[source] = torch.arange(total, total + found.numel()).reshape(found.shape)
        total += found.numel()
    assert callable(node.target)
    args = fx.node.map_arg(node.args, numbers.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, numbers.__getitem__)
    flat = torch.full((total,), NONE, dtype=torch.int64)
    for moved, result in zip(tensors_in(node.target(*args, **kwargs)), results, strict=True):
        flat[moved.reshape(-1)] = result.reshape(-1)
    for source, found in labels.items():
        _fill(found, flat[numbers[source]])
