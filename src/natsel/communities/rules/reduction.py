"""Pooling and reductions: harmless over places, a tie over populations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from natsel.communities.propagation import Propagation, place, rule
from natsel.communities.rules.normalization import note_mixed

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
    "adaptive_max_pool2d.default": 2,
    "upsample_nearest2d.vec": 2,
    "upsample_nearest2d.default": 2,
    "upsample_bilinear2d.vec": 2,
    "upsample_bilinear2d.default": 2,
    "upsample_bicubic2d.vec": 2,
}

REDUCTIONS = (
    "mean.dim mean.default sum.dim_IntList sum.default amax.default amin.default "
    "max.dim min.dim var.dim var.correction std.correction linalg_vector_norm.default "
    "logsumexp.default argmax.default any.dim prod.dim_int"
).split()


@rule(*(f"aten.{name}" for name in POOLS))
def pools(run: Propagation, node: fx.Node, x: Any, *args: Any) -> Any:
    """Windows over places of one channel."""
    x = run.lift(x)
    num_spatial = POOLS[str(node.target).removeprefix("aten.")]
    axes = tuple(range(x.dim() - num_spatial, x.dim()))
    channels = run.space.unite_along(x, axes, f"pooled with plain data at{place(node)}")
    value = node.meta["val"]
    if isinstance(value, list | tuple):
        return tuple(channels.expand(tuple(v.shape)) for v in value)
    return channels.expand(tuple(value.shape))


@rule(*(f"aten.{name}" for name in REDUCTIONS))
def reductions(run: Propagation, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A sum over places keeps labels; over populations it ties them."""
    x = run.lift(x)
    axes = _axes(str(node.target), x, args, kwargs)
    reason = f"reduced together with its neighbours at{place(node)}"
    note_mixed(run, x, axes, reason)
    merged = run.space.unite_along(x, axes, reason)
    value = node.meta["val"]
    shaped = value[0] if isinstance(value, list | tuple) else value
    result: Tensor = merged if shaped.dim() == x.dim() else _squeeze(merged, axes)
    result = torch.clone(result)
    return (result, result) if isinstance(value, list | tuple) else result


def _axes(
    name: str, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int, ...]:
    dims = kwargs.get("dim")
    if dims is None and args and not name.endswith("sum.default"):
        dims = args[1] if "vector_norm" in name and len(args) > 1 else args[0]
        if "vector_norm" in name and len(args) < 2:
            dims = None
    if dims is None or dims == []:
        return tuple(range(x.dim()))
    if isinstance(dims, int):
        dims = [dims]
    return tuple(d % x.dim() for d in dims) if x.dim() else ()


def _squeeze(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.squeeze(axis)
    return x
