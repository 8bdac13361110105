"""Mixtures of experts: an expert is one population, with its row of the router."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from natsel.communities.kinds import EXPERT
from natsel.communities.labels.graph import TensorRef, place, shape_of
from natsel.communities.labels.labels import DATA
from natsel.communities.labels.propagation import Propagation, rule
from natsel.communities.labels.routes import GROUPED, behind, chosen_by
from natsel.communities.labels.rules.weights import channels_of, spread


@rule("aten.topk.default")
def top_k(run: Propagation, node: fx.Node, x: Any, k: int, dim: int = -1, *args: Any) -> Any:
    """The largest along an axis: of a router, who is chosen; of anything else, a barrier."""
    x = run.lift(x)
    if node not in run.routers:
        groups = any(node in behind(router) for router in run.routers)
        reason = f"its router chooses groups of experts before it chooses experts{place(node)}"
        return run.barrier(node, x, reason=reason if groups else None)
    run.routers[node] = channels_of(run, x, dim % x.dim(), f"it is routed by data{place(node)}")
    return tuple(torch.full(tuple(v.shape), 1, dtype=torch.int64) for v in node.meta["val"])


@rule(*GROUPED)
def experts(run: Propagation, node: fx.Node, x: Any, weight: Any, ends: Any, *args: Any) -> Any:
    """y[n, o] = sum_i x[n, i] W[e(n), i, o], where row n belongs to expert e(n)."""
    x = run.lift(x)
    router = run.routes.get(node)
    labels = run.routers.get(router) if router is not None else None
    if not isinstance(weight, TensorRef) or len(weight.axes) != 3 or labels is None or args:
        return run.barrier(node, (x, weight, ends))
    owners = run.axis(weight, 0, "expert")
    run.space.unite(labels, owners, f"it meets plain data{place(node)}")
    run.mark(owners, EXPERT.name)
    reason = f"it carries plain data{place(node)}"
    run.space.unite(channels_of(run, x, 1, reason), run.axis(weight, 1, "in"), reason)
    made: Tensor = run.axis(weight, 2, "out")
    shape = shape_of(node)
    run.charge(weight, (1, 2), float(x.shape[0] * weight.sizes[1] * weight.sizes[2]))
    return spread(made, shape, 1)


def of_chosen(run: Propagation, node: fx.Node, x: Tensor, axis: int) -> Tensor | None:
    """w[n, k] = s[n, e(n, k)]: the scores of those whom row n chose; None if it is no such."""
    router = chosen_by(node.args[2])
    labels = run.routers.get(router) if router is not None else None
    if labels is None or x.dim() != 2 or axis != 1 or len(labels) != x.shape[1]:
        return None
    same = run.space.roots(x) == run.space.roots(labels)
    return torch.full(shape_of(node), DATA) if bool(same.all()) else None


def of_experts(run: Propagation, node: fx.Node, x: Any, indices: Any) -> Tensor | None:
    """y[n, o] = b[e(n), o]: the bias of the expert that row n belongs to; None if it is no such."""
    nodes = node.args[1]
    if not isinstance(x, TensorRef) or len(x.axes) != 2 or len(indices) != 1:
        return None
    router = chosen_by(nodes[0]) if isinstance(nodes, list | tuple) else None
    labels = run.routers.get(router) if router is not None else None
    if labels is None or len(labels) != x.sizes[0] or node.meta["val"].dim() != 2:
        return None
    run.space.unite(labels, run.axis(x, 0, "tied"), f"it meets plain data{place(node)}")
    return spread(run.axis(x, 1, "tied"), shape_of(node), 1)
