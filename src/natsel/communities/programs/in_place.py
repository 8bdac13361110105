"""Operators that write into what nobody else holds give new values instead."""

from __future__ import annotations

import operator

import torch
from torch import fx
from torch._ops import OpOverload
from torch.export import ExportedProgram

FRESH = frozenset(
    (
        *(f"aten.conv{n}d.{kind}" for n in (1, 2, 3) for kind in ("default", "padding")),
        *(f"aten.conv_transpose{n}d.{kind}" for n, kind in ((1, "default"), (2, "input"))),
        *(f"aten.{name}.Tensor" for name in ("add", "sub", "mul", "div")),
        *(
            f"aten.{name}.default"
            for name in (
                *("linear", "addmm", "mm", "bmm", "matmul", "cat", "batch_norm", "layer_norm"),
                *("group_norm", "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu"),
                *("gelu", "sigmoid", "tanh", "elu", "max_pool2d", "avg_pool2d", "softmax"),
                *("empty_like", "zeros_like", "ones_like", "full_like", "topk", "sort"),
                *("new_empty", "new_zeros", "new_ones", "new_full", "zeros", "ones", "full"),
                *("index_put", "leaky_relu", "arange", "embedding", "gather", "clamp", "round"),
            )
        ),
        *("aten.mean.dim", "aten.sum.dim_IntList", "aten.softmax.int", "aten.empty.memory_format"),
        *("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf"),
        *(f"aten.masked_fill.{kind}" for kind in ("Scalar", "Tensor")),
        *(f"aten.scatter.{kind}" for kind in ("src", "value")),
    )
)
"""Operators whose results are memory of their own, whatever enters them."""

VIEWS = frozenset(("aten.alias.default", "aten.slice.Tensor", "aten.view.default"))
"""Operators that give the memory of their first argument, or a part of it."""

KEEPS_TYPE = ("aten.index_put.", "aten.masked_fill.", "aten.scatter.")
"""Operators whose result has the type of what they put other values into."""


def written_anew(program: ExportedProgram) -> None:
    """Let operators such as ``relu_`` give new values, if that is all the writing of a program.

    That is so where what they write into is the fresh result of an operator, and everything else
    that reads it makes something fresh: then nothing sees the same memory under another name.

    Args:
        program: is changed, and only if all of its writing can be replaced.
    """
    for node in program.graph.nodes:
        # Two that write nothing.
        if str(node.target) == "aten.dropout_.default" and node.args[2] is False:
            node.target = torch.ops.aten.dropout.default
        if str(node.target) == "aten.detach_.default":
            node.target = torch.ops.aten.detach.default
    order = {node: number for number, node in enumerate(program.graph.nodes)}
    writing = [node for node in program.graph.nodes if writes(node)]
    instead = [_without_writing(node) for node in writing]
    if any(other is None for other in instead) or not all(
        _is_alone(node, writing) for node in writing
    ):
        return
    for node, other in zip(writing, instead, strict=True):
        source = node.args[0]
        assert other is not None
        assert isinstance(source, fx.Node)
        node.target = other
        for user in list(source.users):
            if order[user] > order[node]:
                user.replace_input_with(source, node)


def writes(node: fx.Node) -> bool:
    """Tell whether an operator writes into what enters it."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _without_writing(node: fx.Node) -> OpOverload | None:
    """Return the operator that gives what this one writes into its first argument."""
    assert isinstance(node.target, OpOverload)
    name = node.target._schema.name.removeprefix("aten::")
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    other = getattr(packet, node.target._overloadname, None)
    if not isinstance(other, OpOverload) or str(other) not in FRESH:
        return None
    if str(other).startswith(KEEPS_TYPE):
        return other
    entering = [n.meta.get("val") for n in node.all_input_nodes]
    # Written into, a number keeps its type; a sum of two types has the wider one.
    return other if len({getattr(x, "dtype", None) for x in entering}) == 1 else None


def _is_alone(node: fx.Node, writing: list[fx.Node]) -> bool:
    """Tell whether only fresh values are made from what an operator writes into."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or node.all_input_nodes.count(source) != 1:
        return False
    is_fresh = source in writing or _is_held_alone(source)
    if sum(user in writing and user.args[0] is source for user in source.users) > 1:
        # What one of them returns is the same memory as what the next one writes into.
        return False
    return is_fresh and all(user in writing or _is_fresh(user) for user in source.users)


def _is_held_alone(node: fx.Node) -> bool:
    """Tell whether what an operator gives is fresh, or all that is seen of what is."""
    base = node.args[0] if node.args else None
    while str(node.target) in VIEWS and isinstance(base, fx.Node) and len(base.users) == 1:
        node, base = base, base.args[0] if base.args else None
    return _is_fresh(node)


def _is_fresh(node: fx.Node) -> bool:
    """Tell whether what an operator gives, or this one of its results, is memory of its own."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return str(node.args[0].target) in FRESH
    return str(node.target) in FRESH
