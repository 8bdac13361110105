"""Pooling and reductions: harmless over places, a tie over populations."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from natsel.communities.labels.graph import map_tensors, operator_name, place
from natsel.communities.labels.labels import DATA
from natsel.communities.labels.propagation import Propagation, rule
from natsel.communities.labels.rules.normalization import note_mixed

POOLS = {
    "max_pool1d.default": 1,
    "max_pool2d.default": 2,
    "max_pool3d.default": 3,
    "avg_pool1d.default": 1,
    "avg_pool2d.default": 2,
    "avg_pool3d.default": 3,
    "adaptive_avg_pool1d.default": 1,
    "adaptive_avg_pool2d.default": 2,
    "adaptive_avg_pool3d.default": 3,
    "max_pool1d_with_indices.default": 1,
    "max_pool2d_with_indices.default": 2,
    "max_pool3d_with_indices.default": 3,
    "adaptive_max_pool1d.default": 1,
    "adaptive_max_pool2d.default": 2,
    "adaptive_max_pool3d.default": 3,
    "_adaptive_avg_pool2d.default": 2,
    "_adaptive_avg_pool3d.default": 3,
    "upsample_nearest1d.vec": 1,
    "upsample_nearest3d.vec": 3,
    "upsample_linear1d.vec": 1,
    "upsample_trilinear3d.vec": 3,
    "upsample_nearest2d.vec": 2,
    "upsample_nearest2d.default": 2,
    "upsample_bilinear2d.vec": 2,
    "upsample_bilinear2d.default": 2,
    "upsample_bicubic2d.vec": 2,
}

REDUCTIONS = [
    "mean.dim",
    "mean.default",
    "sum.dim_IntList",
    "sum.default",
    "amax.default",
    "amin.default",
    "aminmax.default",
    "max.default",
    "max.dim",
    "min.default",
    "min.dim",
    "var.dim",
    "var.correction",
    "var.default",
    "std.dim",
    "std.correction",
    "std.default",
    "var_mean.correction",
    "std_mean.correction",
    "norm.ScalarOpt_dim",
    "norm.Scalar",
    "linalg_vector_norm.default",
    "logsumexp.default",
    "argmax.default",
    "argmin.default",
    "any.default",
    "any.dim",
    "any.dims",
    "all.default",
    "all.dim",
    "all.dims",
    "prod.default",
    "prod.dim_int",
    "median.default",
    "median.dim",
    "count_nonzero.default",
    "count_nonzero.dim_IntList",
]


@rule(*(f"aten.{name}" for name in POOLS))
def pools(run: Propagation, node: fx.Node, x: Any, *args: Any) -> Any:
    """Windows over places of one channel."""
    x = run.lift(x)
    num_spatial = POOLS[operator_name(node).removeprefix("aten.")]
    axes = tuple(range(x.dim() - num_spatial, x.dim()))
    channels = run.space.unite_along(x, axes, f"pooled with plain data{place(node)}")
    value = node.meta["val"]
    if isinstance(value, list | tuple):
        return tuple(channels.expand(tuple(v.shape)) for v in value)
    return channels.expand(tuple(value.shape))


@rule(*(f"aten.{name}" for name in REDUCTIONS))
def reductions(run: Propagation, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A sum over places keeps labels; over populations it ties them."""
    x = run.lift(x)
    axes = axes_of(node, x.dim())
    reason = f"reduced together with its neighbours{place(node)}"
    value = node.meta["val"]
    if node in run.averaged and run.counts(node, x, axes[0]):
        return torch.full(tuple(value.shape), DATA)
    if node in run.unused or (len(axes) == 1 and run.spans_width(x, axes[0])):
        return map_tensors(value, lambda t: torch.full(tuple(t.shape), DATA))
    note_mixed(run, x, axes, reason)
    merged = run.space.unite_along(x, axes, reason)
    shaped = value[0] if isinstance(value, list | tuple) else value
    result = merged.reshape(tuple(shaped.shape))
    return tuple(result for _ in value) if isinstance(value, list | tuple) else result


def axes_of(node: fx.Node, num_axes: int) -> tuple[int, ...]:
    """Return the axes that a reduction runs over: those it names, or all."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    dims: Any = given.get("dim")
    if dims is None or dims == []:
        return tuple(range(num_axes))
    dims = [dims] if isinstance(dims, int) else list(dims)
    return tuple(d % num_axes for d in dims) if num_axes else ()
