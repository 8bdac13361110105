"""What a graph computes and nobody uses: it ties no populations, though it still runs."""

from __future__ import annotations

from torch import fx

CHECKS = ("aten._assert_tensor_metadata.default",)
"""Checks of a type or a layout, which no removal changes: they use nothing of what they check."""


def unused(graph: fx.Graph) -> set[fx.Node]:
    """Return the operators whose results reach neither an output nor an effect.

    Averaged attention weights that the caller drops, an auxiliary head that only training reads:
    they run, so weights in them must keep fitting, but what they compute fixes nothing.

    Args:
        graph: of an exported program that writes nothing in place; it is not changed.
    """
    used: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        acts = node.op != "call_function" or _has_effect(node)
        if acts or any(user in used for user in node.users):
            used.add(node)
    return {node for node in graph.nodes if node not in used}


def _has_effect(node: fx.Node) -> bool:
    # Random numbers that nobody reads are no effect on what is computed here.
    return str(node.target) not in CHECKS and node.is_impure(impure_random=False)


def leading_to_weights(unread: set[fx.Node], held: set[fx.Node]) -> set[fx.Node]:
    """Return the unused operators that read a parameter or buffer, or feed one that does.

    Args:
        unread: from :func:`unused`.
        held: parameters, buffers and what is computed from them alone.
    """
    found: set[fx.Node] = set()
    stack = [node for node in unread if node in held or not held.isdisjoint(node.all_input_nodes)]
    while stack:
        node = stack.pop()
        if node in unread and node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found
