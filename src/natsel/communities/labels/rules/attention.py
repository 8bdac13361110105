"""Attention, fused or written out: one head is one population, with its queries, keys, values."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, fx

from natsel.communities.kinds import HEAD
from natsel.communities.labels.graph import TensorRef, is_weight, operator_name, place, shape_of
from natsel.communities.labels.propagation import Propagation, rule
from natsel.communities.labels.rules.contraction import contract, stacked
from natsel.communities.labels.rules.dimensions import carried, match
from natsel.communities.labels.rules.products import meet, product_of_activations
from natsel.communities.labels.rules.queries import query_heads
from natsel.communities.labels.rules.shape import CONSTANTS
from natsel.communities.labels.rules.weights import product_with_weight_first, weight_product

MAX_SEARCHED = 64


@rule("aten.scaled_dot_product_attention.default")
def attention(
    run: Propagation,
    node: fx.Node,
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> Any:
    """softmax(q k^T + mask) v per head; key/value heads go with their group of query heads."""
    query, key, value = run.lift(query), run.lift(key), run.lift(value)
    if query.dim() < 3:
        return run.barrier(node, (query, key, value, mask))
    reason = f"attention mixes it with plain data{place(node)}"
    if run.dims:
        pairs = float(prod(query.shape[:-1]) * key.shape[-2])
        match(run, query, key, pairs * query.shape[-1], reason)
        return carried(run, value, pairs * value.shape[-1], reason).expand(shape_of(node))
    merged = [run.space.unite_along(t, (-2, -1), reason) for t in (query, key, value)]
    if kwargs.get("enable_gqa"):
        num_heads = query.shape[-3]
        merged = [m.repeat_interleave(num_heads // m.shape[-3], -3) for m in merged]
    apart = query_heads(run, *merged)
    head = apart
    if head is None:
        head = meet(run, meet(run, merged[0], merged[1], reason), merged[2], reason)
    for constant in _constants_behind(node.args[3] if len(node.args) > 3 else None, head.shape):
        # Layers that add the same table of constants must keep as many heads as it has.
        run.space.unite(head, run.shared.setdefault(constant, head).expand_as(head), reason)
    if mask is not None:
        run.combine(node, head.expand(*query.shape[:-1], key.shape[-2]), mask)
    if apart is None:
        run.mark(head, HEAD.name)
    per_head = query.shape[-2] * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    run.charge_labels(head, float(per_head))
    return head.expand(shape_of(node))


def _constants_behind(mask: Any, heads: tuple[int, ...]) -> list[fx.Node]:
    """Return the constants in a mask that have a place for each head."""
    found, stack, seen = [], [mask], set[fx.Node]()
    while stack and len(seen) < MAX_SEARCHED:
        node = stack.pop()
        if not isinstance(node, fx.Node) or node in seen:
            continue
        seen.add(node)
        value = node.meta.get("val")
        if operator_name(node).removesuffix(".default").removeprefix("aten.") in CONSTANTS:
            shape = tuple(value.shape) if isinstance(value, Tensor) else ()
            if len(shape) >= 3 and shape[-3] == heads[-3] > 1:
                found.append(node)
        elif node.op == "call_function":
            stack.extend(node.all_input_nodes)
    return found


@rule("aten.matmul.default", "aten.mm.default", "aten.bmm.default")
def product(run: Propagation, node: fx.Node, a: Any, b: Any) -> Any:
    """A product of two activations, as in attention written out, or with a weight."""
    if is_weight(b) and len(b.axes) == 2 and isinstance(a, Tensor):
        return weight_product(run, node, a, b, None, in_axis=0)
    if isinstance(a, TensorRef) and len(a.axes) == 2 and isinstance(b, Tensor) and b.dim() > 1:
        return product_with_weight_first(run, node, a, b)
    if isinstance(b, TensorRef) and len(b.axes) > 2 and isinstance(a, Tensor) and a.dim() > 1:
        return contract(run, node, a, *stacked(a, b))
    if isinstance(a, TensorRef) and len(a.axes) > 2 and isinstance(b, Tensor) and b.dim() > 1:
        return contract(run, node, b, *stacked(b, a, first=True))
    a, b = run.lift(a), run.lift(b)
    if a.dim() < 2 or b.dim() < 2:
        return run.barrier(node, (a, b))
    return product_of_activations(run, node, a, b, shape_of(node))


@rule("aten.baddbmm.default")
def product_with_addend(
    run: Propagation, node: fx.Node, addend: Any, a: Any, b: Any, **kwargs: Any
) -> Any:
    """beta addend + alpha a b."""
    return run.combine(node, product(run, node, a, b), addend)
