"""Means over populations in which one that is silent counts as a zero, and nothing else.

There the populations need not stand or fall together. Two forms are known: what is divided by its
own mean, as global response normalisation has it, and a root mean square of what a gate lets
through, after state-space scans. A population that makes nothing, or whose gate is shut, adds zero
to the sum; as long as the mean goes on dividing by as many as there were, removing is silencing.
"""

from __future__ import annotations

from torch import fx

from natsel.communities.labels.graph import operator_name

MEANS = ("aten.mean.dim", "aten.sum.dim_IntList")
SAME = tuple(
    f"aten.{name}"
    for name in (
        *("view.default", "reshape.default", "_unsafe_view.default", "unsqueeze.default"),
        *("contiguous.default", "clone.default", "detach.default", "alias.default"),
        *("to.dtype", "_to_copy.default", "to.dtype_layout", "type_as.default"),
    )
)
"""Operators behind which a value is the same, in another shape or type."""
ADDS = ("aten.add.Tensor", "aten.add.Scalar")
DIVIDES = ("aten.div.Tensor", "aten.div.Scalar")
SQUARES = ("aten.square.default",)
PRODUCT = "aten.mul.Tensor"


def averaged(graph: fx.Graph) -> set[fx.Node]:
    """Return the means, and sums, of a graph in which a silent population is no more than a zero.

    Args:
        graph: of an exported program.
    """
    return {n for n in graph.nodes if operator_name(n) in MEANS and _along_one(n) and _is_one(n)}


def _along_one(node: fx.Node) -> bool:
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return isinstance(axes, int) or (isinstance(axes, list | tuple) and len(axes) == 1)


def _is_one(node: fx.Node) -> bool:
    source = node.args[0]
    if not isinstance(source, fx.Node):
        return False
    numbers = [node, *_with_numbers(node, DIVIDES)]
    shifted = [n for each in numbers for n in _with_numbers(each, ADDS)]
    over = [*numbers, *shifted]
    if any(_divides(source, user) for each in over for user in each.users):
        return True
    squared = _squared(source)
    return (
        squared is not None
        and _is_gated(squared)
        and any(
            operator_name(root) in ("aten.rsqrt.default", "aten.sqrt.default")
            for each in shifted
            for root in each.users
        )
    )


def _with_numbers(node: fx.Node, operators: tuple[str, ...]) -> list[fx.Node]:
    """Return what some operators make of a value and a number that the code writes."""
    return [
        user
        for user in node.users
        if operator_name(user) in operators
        and user.args[0] is node
        and not isinstance(user.args[1], fx.Node)
    ]


def _divides(source: fx.Node, user: fx.Node) -> bool:
    """Tell whether what a mean was taken of is divided by it."""
    return operator_name(user) in DIVIDES and user.args[0] is source and user.args[1] is not source


def _squared(node: fx.Node) -> fx.Node | None:
    """Return what a value is the square of, or None."""
    name, first = operator_name(node), node.args[0] if node.args else None
    if not isinstance(first, fx.Node):
        return None
    is_power = name == "aten.pow.Tensor_Scalar" and node.args[1] == 2
    is_product = name == PRODUCT and node.args[1] is first
    return first if is_power or is_product or name in SQUARES else None


def _is_gated(node: fx.Node) -> bool:
    """Tell whether a value is a product with what a gate lets through, which may be nothing."""
    found = _behind(node)
    if operator_name(found) != PRODUCT:
        return False
    factors = [_behind(n) for n in found.args[:2] if isinstance(n, fx.Node)]
    return any(operator_name(n) in ("aten.silu.default", "aten.relu.default") for n in factors)


def _behind(node: fx.Node) -> fx.Node:
    """Return what a value is the same as."""
    while operator_name(node) in SAME and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node
