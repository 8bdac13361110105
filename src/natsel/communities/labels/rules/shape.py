"""Operators that only move, repeat or drop elements: they run on labels as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from natsel.communities.labels.graph import (
    TensorRef,
    constant_of,
    operator_name,
    place,
    shape_of,
)
from natsel.communities.labels.labels import DATA, NONE
from natsel.communities.labels.propagation import Propagation, rule
from natsel.communities.labels.rules.normalization import note_mixed
from natsel.communities.labels.rules.routing import of_chosen, of_experts

MOVES = [
    "view.default",
    "reshape.default",
    "_unsafe_view.default",
    "permute.default",
    "transpose.int",
    "t.default",
    "unsqueeze.default",
    "squeeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "expand.default",
    "slice.Tensor",
    "select.int",
    "split.Tensor",
    "split_with_sizes.default",
    "chunk.default",
    "unbind.int",
    "flatten.using_ints",
    "unflatten.int",
    "movedim.int",
    "movedim.intlist",
    "narrow.default",
    "expand_as.default",
    "view_as.default",
    "reshape_as.default",
    "flip.default",
    "roll.default",
    "repeat.default",
    "repeat_interleave.self_int",
    "unfold.default",
    "swapaxes.default",
    "swapdims.default",
    "mT.default",
    "numpy_T.default",
    "pixel_shuffle.default",
    "pixel_unshuffle.default",
    "diagonal.default",
    "tile.default",
    "hsplit.int",
    "vsplit.int",
    "dsplit.int",
    "tensor_split.sections",
    "tensor_split.indices",
    "broadcast_to.default",
    "slice_scatter.default",
    "select_scatter.default",
]

VIEWS = {
    "aten.view.default": torch.ops.aten.reshape.default,
    "aten._unsafe_view.default": torch.ops.aten.reshape.default,
    "aten.view_as.default": torch.ops.aten.reshape_as.default,
}
"""What stands for them: labels that are repeated without storage have no such view."""

SPLITS = ("aten.chunk.default", "aten.split.Tensor", "aten.split_with_sizes.default")

KEEPS = [
    "contiguous.default",
    "clone.default",
    "detach.default",
    "alias.default",
    "to.dtype",
    "to.device",
    "to.dtype_layout",
    "to.other",
    "_to_copy.default",
    "lift_fresh_copy.default",
    "dropout.default",
    "feature_dropout.default",
    "alpha_dropout.default",
    "type_as.default",
]


@rule(*(f"aten.{name}" for name in MOVES))
def moves(run: Propagation, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """Execute the operator on the labels; writing into a slice is one of them."""
    if args and isinstance(args[0], TensorRef):
        order = _order(operator_name(node), args)
        if order is not None:
            return args[0].permuted(order)
        if operator_name(node) in SPLITS:
            return _split(args[0], node, kwargs.get("dim", args[2] if len(args) > 2 else 0))
    lifted = [run.lift(a) if isinstance(a, Tensor | TensorRef) else a for a in args]
    if operator_name(node) == "aten.chunk.default":
        return _chunks(run, node, lifted[0], kwargs.get("dim", args[2] if len(args) > 2 else 0))
    target: Any = VIEWS.get(operator_name(node), node.target)
    assert callable(target)
    return target(*lifted, **kwargs)


def _chunks(run: Propagation, node: fx.Node, x: Tensor, axis: int) -> list[Tensor]:
    """Return parts of one size, of which each must lose the same places: else they were others."""
    sizes = [value.shape[axis] for value in node.meta["val"]]
    parts = list(x.split_with_sizes(sizes, axis))
    roots = run.space.roots(parts[0])
    differ = not bool((roots == roots.narrow(axis, 0, 1)).all())
    if differ and len(set(sizes)) == 1:
        reason = f"it is a part of what is cut into {len(parts)}{place(node)}"
        for part in parts[1:]:
            run.space.unite(parts[0], part, reason)
    return parts


def _split(ref: TensorRef, node: fx.Node, axis: int) -> list[TensorRef]:
    """Return views of the parts of a parameter that is split along an axis."""
    axis %= len(ref.axes)
    start, parts = 0, []
    for value in node.meta["val"]:
        parts.append(ref.narrowed(axis, start, value.shape[axis]))
        start += value.shape[axis]
    return parts


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


@rule("aten.channel_shuffle.default", "aten.native_channel_shuffle.default")
def channel_shuffle(run: Propagation, node: fx.Node, x: Any, groups: int) -> Any:
    """Interleave groups of channels: exact as long as each group loses the same places of its own.

    Channel j of group g goes to place j * groups + g. With n places left in every group, the
    shuffle of what remains is what remains of the shuffle, whichever they are.
    """
    x = run.lift(x)
    parts = x.reshape(len(x), groups, -1, *x.shape[2:])
    reason = f"its groups are shuffled together{place(node)}"
    united = run.space.unite_along(parts, (1,), reason).expand_as(parts)
    return united.transpose(1, 2).flatten(1, 2)


@rule(*(f"aten.{name}" for name in KEEPS))
def keeps(run: Propagation, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """The value, or its copy, in evaluation mode: the labels stay."""
    return x


@rule("aten.cat.default", "aten.concat.default", "aten.concatenate.default", "aten.stack.default")
def joins(run: Propagation, node: fx.Node, tensors: Any, dim: int = 0) -> Any:
    """Concatenate the labels."""
    lifted = [run.lift(t) for t in tensors]
    join = torch.stack if "stack" in operator_name(node) else torch.cat
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
    """A constant around ties nothing; reflections move labels."""
    x = run.lift(x)
    if mode == "constant" or "constant_pad_nd" in operator_name(node):
        return torch.nn.functional.pad(x, padding, value=NONE)
    padded = torch.nn.functional.pad(x.double(), padding, mode=mode)
    return padded.to(torch.int64)


CONSTANTS = [
    "empty_like",
    "new_empty",
    "new_empty_strided",
    "zeros",
    "ones",
    "full",
    "zeros_like",
    "ones_like",
    "full_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "scalar_tensor",
]


@rule(*(f"aten.{name}.default" for name in CONSTANTS), "aten.empty.memory_format")
def constants(run: Propagation, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """The same number everywhere: it ties nothing."""
    return torch.full(shape_of(node), NONE, dtype=torch.int64)


@rule(
    "aten._assert_tensor_metadata.default", "aten._assert_async.msg", "aten._assert_scalar.default"
)
def nothing(run: Propagation, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """A check of the type or a number computes nothing."""
    return None


@rule("aten.fill.Scalar", "aten.fill.Tensor")
def fill(run: Propagation, node: fx.Node, x: Any, value: Any) -> Any:
    """A tensor of the same shape with one number everywhere."""
    return _spread(value, run, node)


@rule("aten.copy.default")
def copy(run: Propagation, node: fx.Node, x: Any, source: Any, *args: Any) -> Any:
    """The source, in the shape of what it is written to."""
    return _spread(source, run, node)


def _spread(value: Any, run: Propagation, node: fx.Node) -> Tensor:
    """One number of data is the same everywhere; anything else keeps its labels."""
    labels = run.lift(value) if isinstance(value, Tensor | TensorRef) else torch.tensor(NONE)
    if labels.numel() == 1 and int(labels) == DATA:
        labels = torch.tensor(NONE)
    return labels.expand(shape_of(node)).contiguous()


@rule("aten.index_select.default")
def index_select(run: Propagation, node: fx.Node, x: Any, axis: int, index: Any) -> Any:
    """Take places that data names, along an axis on which populations do not differ."""
    reason = f"it is indexed by data{place(node)}"
    run.space.fix(run.lift(index), reason)
    x = run.lift(x)
    axes = (axis % x.dim(),)
    note_mixed(run, x, axes, reason)
    merged = run.space.unite_along(x, axes, reason)
    return merged.expand(shape_of(node))


@rule("aten.index.Tensor")
def index(run: Propagation, node: fx.Node, x: Any, indices: Any) -> Any:
    """The same with tensors of indices: a table of relative positions, or ``x[..., [-1]]``."""
    chosen = of_experts(run, node, x, indices)
    if chosen is not None:
        return chosen
    x = run.lift(x)
    reason = f"it is indexed by data{place(node)}"
    for labels in indices:
        if labels is not None:
            run.space.fix(run.lift(labels), reason)
    nodes = node.args[1]
    assert isinstance(nodes, list | tuple)
    written = [constant_of(run.program, n) for n in nodes]
    named = all((c is None) == (n is None) for c, n in zip(written, nodes, strict=True))
    if named and not bool(run.space.is_loose(x).any()):
        # Places that the code names: each keeps its own labels. Those of a table stay together.
        return torch.ops.aten.index.Tensor(x, written)
    values = [n.meta["val"] for n in nodes if isinstance(n, fx.Node)]
    if any(v.dtype in (torch.bool, torch.uint8) for v in values):
        return run.barrier(node, x)
    axes = tuple(i for i, labels in enumerate(indices) if labels is not None)
    note_mixed(run, x, axes, reason)
    merged = run.space.unite_along(x, axes, reason)
    first = [None if t is None else torch.zeros_like(run.lift(t)) for t in indices]
    return torch.ops.aten.index.Tensor(merged, first)


@rule("aten.gather.default")
def gather(run: Propagation, node: fx.Node, x: Any, axis: int, index: Any, **kwargs: Any) -> Any:
    """Take places along an axis on which populations do not differ; the others keep theirs."""
    reason = f"it is indexed by data{place(node)}"
    run.space.fix(run.lift(index), reason)
    x = run.lift(x)
    shape = shape_of(node)
    if not x.dim():
        return x.expand(shape)
    axis %= x.dim()
    if (weights := of_chosen(run, node, x, axis)) is not None:
        return weights
    note_mixed(run, x, (axis,), reason)
    merged = run.space.unite_along(x, (axis,), reason)
    for other, size in enumerate(shape):
        merged = merged if other == axis else merged.narrow(other, 0, size)
    return merged.expand(shape)


@rule("aten.view_as_complex.default")
def as_complex(run: Propagation, node: fx.Node, x: Any) -> Tensor:
    """The real and the imaginary part of a number stand together."""
    reason = f"it is a part of a complex number{place(node)}"
    return run.space.unite_along(run.lift(x), (-1,), reason).squeeze(-1)


@rule("aten.view_as_real.default")
def as_real(run: Propagation, node: fx.Node, x: Any) -> Tensor:
    """Both parts belong to whoever the number belongs to."""
    return run.lift(x).unsqueeze(-1).expand(shape_of(node))


@rule("aten.im2col.default")
def patches(run: Propagation, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Take windows apart: row (c, i, j) of a patch is place (i, j) of channel c in its window."""
    assert callable(node.target)
    labels: Tensor = node.target(run.lift(x).double(), *args, **kwargs)
    return labels.long()


@rule("aten.col2im.default")
def folded(run: Propagation, node: fx.Node, x: Any, size: Any, kernel: Any, *args: Any) -> Tensor:
    """Sum windows back into an image: a channel is all its places in all windows."""
    x = run.lift(x)
    num_places = kernel[0] * kernel[1]
    reason = f"it is summed with other places of its channel{place(node)}"
    windows = x.reshape(*x.shape[:-2], -1, num_places, x.shape[-1])
    return run.space.unite_along(windows, (-2, -1), reason).expand(shape_of(node))
