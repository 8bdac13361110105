"""Which router chooses the experts of which weights: read from the graph, never guessed."""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import fx

GROUPED = (
    "aten._grouped_mm.default",
    "aten.grouped_mm.default",
    "transformers.grouped_mm_fallback.default",
)
"""Products of the rows of each expert with its own weight: (rows, weights, where groups end)."""

PASSED = ("to.dtype", "alias.default", "clone.default", "_to_copy.default", "detach.default")
RESHAPED = ("reshape.default", "view.default", "flatten.using_ints", "clamp.default")
TOP_K = "aten.topk.default"
SORTS = ("aten.sort.default", "aten.sort.stable")
MASKED = ("masked_fill.Scalar", "masked_fill.Tensor")
ADDED = ("add.Tensor",)
SQUEEZED = ("squeeze.default", "squeeze.dim", "unsqueeze.default")
SCORES = ("softmax.int", "_softmax.default", "sigmoid.default")


def routed_by(program: torch.export.ExportedProgram) -> dict[fx.Node, fx.Node]:
    """Return, per product of experts, the top-k that chose the experts of each row."""
    found = {}
    for node in program.graph.nodes:
        if str(node.target) in GROUPED and len(node.args) > 2:
            chosen = _top_k_behind(node.args[2])
            if len(chosen) == 1:
                found[node] = chosen.pop()
    return found


def _top_k_behind(value: Any) -> set[fx.Node]:
    found: set[fx.Node] = set()
    stack, seen = [value], set()
    while stack:
        node = stack.pop()
        if not isinstance(node, fx.Node) or node in seen:
            continue
        seen.add(node)
        if str(node.target) == TOP_K:
            found.add(node)
        else:
            stack.extend(node.all_input_nodes)
    return found


def chosen_by(index: Any) -> fx.Node | None:
    """Return the top-k whose choice an index is, in whatever order and shape; else None."""
    while isinstance(index, fx.Node):
        name = str(index.target).removeprefix("aten.")
        if index.target is operator.getitem:
            source, place = index.args
            made = str(source.target) if isinstance(source, fx.Node) else ""
            if made == TOP_K and place == 1:
                return source if isinstance(source, fx.Node) else None
            if made not in SORTS or place != 0:
                return None
            index = cast(fx.Node, source)
        elif name not in PASSED + RESHAPED and str(index.target) not in SORTS:
            return None
        index = index.args[0]
    return None


def scores_behind(top_k: fx.Node, placeholders: set[str]) -> set[fx.Node]:
    """Return the softmax between a router's weight and its top-k: experts compete there."""
    path = choosing_from(top_k, placeholders)
    return {node for node in path if name_of(node) in SCORES}


def choosing_from(top_k: fx.Node, placeholders: set[str]) -> set[fx.Node]:
    """Return the scores of experts between a router's weight and its top-k.

    Between them experts may be masked, and each have a number of its own added.

    Args:
        top_k: chooses experts.
        placeholders: names of parameters and buffers.
    """
    found: set[fx.Node] = set()
    node: Any = top_k.args[0]
    while isinstance(node, fx.Node):
        name = name_of(node)
        found.add(node)
        if name in PASSED + SCORES + MASKED:
            node = node.args[0]
        elif name in ADDED and (added := preference_in(node, placeholders)) is not None:
            node = node.args[0] if added is node.args[1] else node.args[1]
        else:
            break
    return found


def preferences(top_k: fx.Node, placeholders: set[str]) -> set[str]:
    """Return the placeholders whose numbers are added to the scores that a router chooses from."""
    path = choosing_from(top_k, placeholders)
    added = [preference_in(n, placeholders) for n in path if name_of(n) in ADDED]
    held = [held_in(node, placeholders) for node in added]
    return {node.name for node in held if node is not None}


def name_of(node: fx.Node) -> str:
    """Return an operator's name without its library."""
    return str(node.target).removeprefix("aten.")


def preference_in(node: fx.Node, placeholders: set[str]) -> fx.Node | None:
    """Return the operand of a sum that holds a number of its own for each expert, if one does."""
    for operand in node.args[:2]:
        if isinstance(operand, fx.Node) and held_in(operand, placeholders) is not None:
            return operand
    return None


def held_in(node: Any, placeholders: set[str]) -> fx.Node | None:
    """Return the parameter or buffer that a value is, in another type or shape; else None."""
    while isinstance(node, fx.Node) and node.op == "call_function":
        if name_of(node) not in PASSED + RESHAPED + SQUEEZED:
            return None
        node = node.args[0]
    return node if isinstance(node, fx.Node) and node.name in placeholders else None


def behind(node: fx.Node) -> set[fx.Node]:
    """Return everything that a node is computed from."""
    found: set[fx.Node] = set()
    stack = [node]
    while stack:
        fresh = [n for n in stack.pop().all_input_nodes if n not in found]
        found.update(fresh)
        stack += fresh
    return found
