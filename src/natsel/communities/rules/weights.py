"""Linear maps with a weight: they read populations on one axis and make new ones on another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from natsel.communities.propagation import Propagation, TensorRef, place, rule


def _is_weight(value: Any) -> bool:
    return isinstance(value, TensorRef)


def _read(run: Propagation, node: fx.Node, x: Tensor, axis: int, weight_labels: Tensor) -> None:
    """Unite each channel of ``x`` with the weight's input index that reads it."""
    over = tuple(i for i in range(x.dim()) if i != axis)
    reason = f"it reads plain data at{place(node)}"
    channel = run.space.unite_along(x, over, reason).reshape(-1)
    run.space.unite(channel, weight_labels, reason)


def _write(labels: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """Spread one label per channel over a result of the given shape."""
    view = [1] * len(shape)
    view[axis] = -1
    return labels.reshape(view).expand(shape)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _linear(
    run: Propagation, node: fx.Node, x: Any, weight: Any, bias: Any, in_axis: int
) -> Tensor:
    x = run.lift(x)
    out_axis = 1 - in_axis
    num_in, num_out = weight.shape[weight.axes[in_axis]], weight.shape[weight.axes[out_axis]]
    _read(run, node, x, x.dim() - 1, run.axis(weight, in_axis, "in"))
    labels = run.axis(weight, out_axis, "out")
    if bias is not None:
        if not _is_weight(bias) or len(bias.shape) != 1:
            run.space.fix(labels, f"its bias is computed at{place(node)}")
        else:
            run.space.unite(labels, run.axis(bias, 0, "tied"), "its bias is plain data")
    positions = x.numel() // max(num_in, 1)
    run.count(weight, in_axis, positions * num_out)
    run.count(weight, out_axis, positions * num_in)
    shape = _shape(node)
    return _write(labels, shape, len(shape) - 1)


@rule("aten.linear.default")
def linear(run: Propagation, node: fx.Node, x: Any, weight: Any, bias: Any = None) -> Any:
    """y[..., o] = sum_i W[o, i] x[..., i] + b[o]."""
    if not _is_weight(weight):
        return run.barrier(node, (x, weight, bias))
    return _linear(run, node, x, weight, bias, in_axis=1)


@rule("aten.addmm.default")
def addmm(run: Propagation, node: fx.Node, bias: Any, x: Any, weight: Any, **kwargs: Any) -> Any:
    """y[..., o] = sum_i x[..., i] W[i, o] + b[o]."""
    if not _is_weight(weight) or not _is_weight(bias) or kwargs:
        return run.barrier(node, (bias, x, weight))
    return _linear(run, node, x, weight, bias, in_axis=0)


def weight_product(run: Propagation, node: fx.Node, x: Any, weight: TensorRef) -> Tensor:
    """y[..., o] = sum_i x[..., i] W[i, o], for a weight of two axes."""
    return _linear(run, node, x, weight, None, in_axis=0)


@rule("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
def convolution(
    run: Propagation,
    node: fx.Node,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """A convolution; depthwise it ties input to output, grouped it ties equal places in groups."""
    x = run.lift(x)
    num_spatial = len(weight.shape) - 2 if _is_weight(weight) else -1
    if not _is_weight(weight) or x.dim() != num_spatial + 2:
        return run.barrier(node, (x, weight, bias))
    labels = _grouped(run, node, x, weight, groups, out_axis=0)
    return _finish(run, node, weight, bias, labels, groups)


@rule("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def transposed(
    run: Propagation,
    node: fx.Node,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """A transposed convolution: its weight has the input axis first."""
    x = run.lift(x)
    if not _is_weight(weight) or groups != 1 or x.dim() != len(weight.shape):
        return run.barrier(node, (x, weight, bias))
    _read(run, node, x, 1, run.axis(weight, 0, "in"))
    labels = run.axis(weight, 1, "out")
    return _finish(run, node, weight, bias, labels, groups, in_axis=0)


def _grouped(
    run: Propagation, node: fx.Node, x: Tensor, weight: TensorRef, groups: int, out_axis: int
) -> Tensor:
    channels = run.space.unite_along(
        x, tuple(i for i in range(x.dim()) if i != 1), f"it reads plain data at{place(node)}"
    ).reshape(-1)
    if groups == 1:
        _read(run, node, x, 1, run.axis(weight, 1, "in"))
        return run.axis(weight, out_axis, "out")
    reason = f"the groups of a convolution must stay equal at{place(node)}"
    if weight.shape[weight.axes[1]] == 1:
        labels = run.axis(weight, 0, "tied")
        run.space.unite(channels.repeat_interleave(len(labels) // groups), labels, reason)
        return labels
    local = run.axis(weight, 1, "in")
    run.space.unite(channels, local.repeat(groups), reason)
    labels = run.axis(weight, 0, "out")
    per_group = labels.reshape(groups, -1)
    run.space.unite(per_group[:1].expand_as(per_group), per_group, reason)
    return labels


def _finish(
    run: Propagation,
    node: fx.Node,
    weight: TensorRef,
    bias: Any,
    labels: Tensor,
    groups: int,
    in_axis: int = 1,
) -> Tensor:
    shape = _shape(node)
    if bias is not None:
        run.space.unite(labels, run.axis(bias, 0, "tied"), "its bias is plain data")
    kernel = 1
    for size in weight.shape[2:]:
        kernel *= size
    positions = shape[0]
    for size in shape[2:]:
        positions *= size
    num_in = weight.shape[in_axis] * (groups if in_axis == 1 else 1)
    total = positions * kernel * (num_in // groups) * shape[1]
    run.count(weight, 1 - in_axis, total / weight.shape[1 - in_axis])
    if not (groups > 1 and weight.shape[1] == 1):
        run.count(weight, in_axis, total / weight.shape[in_axis])
    return _write(labels, shape, 1)


@rule("aten.embedding.default")
def embedding(run: Propagation, node: fx.Node, weight: Any, indices: Any, *args: Any) -> Any:
    """A table lookup: its columns are made like the outputs of a linear map."""
    if not _is_weight(weight):
        return run.barrier(node, (weight, indices))
    run.space.fix(run.axis(weight, 0, "in"), "rows of an embedding are chosen by data")
    labels = run.axis(weight, 1, "out")
    return _write(labels, _shape(node), len(_shape(node)) - 1)


@rule("aten.prelu.default")
def prelu(run: Propagation, node: fx.Node, x: Any, weight: Any) -> Any:
    """PReLU: one slope for all channels, or one per channel that goes with it."""
    x = run.lift(x)
    if not _is_weight(weight):
        return run.barrier(node, (x, weight))
    if weight.shape[0] > 1:
        over = tuple(i for i in range(x.dim()) if i != 1)
        channel = run.space.unite_along(x, over, f"it meets plain data at{place(node)}")
        run.space.unite(
            channel.reshape(-1), run.axis(weight, 0, "tied"), f"it meets plain data at{place(node)}"
        )
    return torch.clone(x)
