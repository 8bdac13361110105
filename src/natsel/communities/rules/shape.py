"""Operators that only move, repeat or drop elements: they run on labels as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from natsel.communities.labels import DATA, NONE
from natsel.communities.propagation import Propagation, TensorRef, map_tensors, place, rule

MOVES = (
    "view.default reshape.default _unsafe_view.default permute.default transpose.int t.default "
    "unsqueeze.default squeeze.default squeeze.dim squeeze.dims expand.default slice.Tensor "
    "select.int split.Tensor split_with_sizes.default chunk.default unbind.int flatten.using_ints "
    "unflatten.int movedim.int movedim.intlist narrow.default expand_as.default view_as.default "
    "flip.default roll.default repeat.default repeat_interleave.self_int "
    "unfold.default swapaxes.default swapdims.default mT.default numpy_T.default "
    "pixel_shuffle.default pixel_unshuffle.default channel_shuffle.default "
    "diagonal.default tile.default hsplit.int vsplit.int tensor_split.sections"
).split()

KEEPS = (
    "contiguous.default clone.default detach.default detach_.default alias.default "
    "to.dtype to.device to.dtype_layout to.other _to_copy.default lift_fresh_copy.default "
    "dropout.default dropout_.default feature_dropout.default alpha_dropout.default "
    "type_as.default bernoulli.p"
).split()


@rule(*(f"aten.{name}" for name in MOVES))
def moves(run: Propagation, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """Execute the operator on the labels."""
    if args and isinstance(args[0], TensorRef):
        order = _order(str(node.target), args)
        if order is not None:
            return args[0].permuted(order)
    lifted = [run.lift(a) if isinstance(a, Tensor | TensorRef) else a for a in args]
    assert callable(node.target)
    return map_tensors(node.target(*lifted, **kwargs), torch.Tensor.contiguous)


def _order(name: str, args: tuple[Any, ...]) -> tuple[int, ...] | None:
    """Return the order of axes if the operator only permutes them."""
    num_axes = len(args[0].axes)
    order = list(range(num_axes))
    if name in ("aten.t.default", "aten.numpy_T.default", "aten.mT.default") and num_axes == 2:
        return (1, 0)
    if name in ("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default"):
        first, second = args[1] % num_axes, args[2] % num_axes
        order[first], order[second] = order[second], order[first]
        return tuple(order)
    if name == "aten.permute.default":
        return tuple(i % num_axes for i in args[1])
    return None


@rule(*(f"aten.{name}" for name in KEEPS))
def keeps(run: Propagation, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """The value, or its copy, in evaluation mode: the labels stay."""
    return x


@rule("aten.cat.default", "aten.concat.default", "aten.stack.default")
def joins(run: Propagation, node: fx.Node, tensors: Any, dim: int = 0) -> Any:
    """Concatenate the labels."""
    lifted = [run.lift(t) for t in tensors]
    join = torch.stack if "stack" in str(node.target) else torch.cat
    if join is torch.cat:
        lifted = [t for t in lifted if t.dim() > 1 or t.numel()] or lifted
    return join(lifted, dim)


@rule("aten.pad.default", "aten.constant_pad_nd.default", "aten.zero_pad2d.default")
def pad(
    run: Propagation,
    node: fx.Node,
    x: Any,
    padding: Any,
    mode: Any = "constant",
    value: float | None = None,
) -> Any:
    """Zeros around are structural; any other constant is plain data; reflections move labels."""
    if "constant_pad_nd" in str(node.target) and not isinstance(mode, str):
        mode, value = "constant", mode
    x = run.lift(x)
    if mode == "constant":
        return torch.nn.functional.pad(x, padding, value=DATA if value else NONE)
    padded = torch.nn.functional.pad(x.double(), padding, mode=mode)
    return padded.to(torch.int64)


@rule(
    "aten.zeros.default",
    "aten.zeros_like.default",
    "aten.new_zeros.default",
    "aten.full.default",
    "aten.new_full.default",
    "aten.full_like.default",
)
def constants(run: Propagation, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """A constant zero is structural, any other constant is plain data."""
    name = str(node.target)
    value = 0 if "zeros" in name else args[2 if "new_full" in name else 1]
    shape = tuple(node.meta["val"].shape)
    return torch.full(shape, DATA if value else NONE, dtype=torch.int64)


@rule("aten.copy_.default", "aten.index_put_.default", "aten.fill_.Scalar", "aten.zero_.default")
def writes(run: Propagation, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """Writing into a view changes values that other names still refer to: a barrier."""
    return run.barrier(node, args, kwargs)


@rule("aten.index_select.default", "aten.index.Tensor", "aten.gather.default")
def gathers(run: Propagation, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Gather along an axis on which labels do not differ; otherwise a barrier."""
    x = run.lift(x)
    if "index_select" in str(node.target):
        axis = args[0] % x.dim()
        merged = run.space.unite_along(x, (axis,), f"it is indexed by data at{place(node)}")
        return merged.expand(tuple(node.meta["val"].shape))
    return run.barrier(node, (x, *args), kwargs)
