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


def scores_behind(top_k: fx.Node) -> set[fx.Node]:
    """Return the softmax between a router's weight and its top-k: experts compete there."""
    found = set()
    node = top_k.args[0]
    while isinstance(node, fx.Node) and str(node.target).removeprefix("aten.") in PASSED + SCORES:
        if str(node.target).removeprefix("aten.") in SCORES:
            found.add(node)
        node = node.args[0]
    return found


def behind(node: fx.Node) -> set[fx.Node]:
    """Return everything that a node is computed from."""
    found: set[fx.Node] = set()
    stack = [node]
    while stack:
        fresh = [n for n in stack.pop().all_input_nodes if n not in found]
        found.update(fresh)
        stack += fresh
    return found
