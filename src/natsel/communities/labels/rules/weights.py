"""Linear maps with a weight: they read populations on one axis and make new ones on another."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from torch import Tensor, fx

from natsel.communities.labels.graph import TensorRef, Weight, is_weight, place, shape_of
from natsel.communities.labels.labels import DATA, narrowed
from natsel.communities.labels.propagation import Propagation, rule


def channels_of(run: Propagation, x: Tensor, axis: int, reason: str) -> Tensor:
    """Return one label per place along an axis, tying what the other axes hold there."""
    over = tuple(i for i in range(x.dim()) if i != axis)
    return run.space.unite_along(x, over, reason).reshape(-1)


def spread(labels: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """Spread one label per channel over a result of the given shape."""
    view = [1] * len(shape)
    view[axis] = -1
    return labels.reshape(view).expand(shape)


def _read(run: Propagation, node: fx.Node, x: Tensor, axis: int, weight_labels: Tensor) -> None:
    """Unite each channel of ``x`` with the weight's input index that reads it."""
    reason = f"it carries plain data{place(node)}"
    run.space.unite(channels_of(run, x, axis, reason), weight_labels, reason)


def _add_bias(run: Propagation, node: fx.Node, labels: Tensor, bias: Any) -> None:
    if is_weight(bias) and len(bias.axes) == 1:
        run.space.unite(labels, run.axis(bias, 0, "tied"), f"its bias is shared{place(node)}")
    elif bias is not None:
        reason = f"its bias is computed{place(node)}"
        added = run.lift(bias)
        if added.dim() == 1 and len(added) == len(labels):
            run.space.unite(labels, added, reason)
        else:
            run.space.fix(labels, reason)
            run.space.fix(added, reason)


def over_places(run: Propagation, node: fx.Node, x: Tensor, axes: Sequence[int]) -> bool:
    """Tell whether a sum over some axes leaves populations apart, which lie along other ones."""
    if node in run.reading:
        return False
    roots = run.space.roots(narrowed(x))
    if not all(bool((roots == roots.narrow(axis, 0, 1)).all()) for axis in axes):
        return False
    free = roots[~run.space.is_fixed(roots) & (roots > DATA)]
    # Channels have as many places each; tokens of several makers mostly have not.
    _, counts = np.unique(free.numpy(), return_counts=True)
    return len(counts) > 1 and bool((counts == counts[0]).all())


def _over_places(
    run: Propagation, node: fx.Node, x: Tensor, axis: int, weight: Weight, out_axis: int
) -> Tensor | None:
    """Return the labels of a layer that mixes places (tokens) of each channel by itself.

    It does where populations lie along another axis than the one that it reads, and may go: each
    keeps its label, and the weight is the same for all of them. None where it is another layer.
    """
    if not isinstance(weight, TensorRef) or not over_places(run, node, x, (axis,)):
        return None
    labels = x.narrow(axis, 0, 1)
    run.mixing[node] = (weight, out_axis)
    macs = float(prod(shape_of(node)) * weight.sizes[1 - out_axis])
    run.charge_labels(labels, macs / labels.numel())
    return labels.expand(shape_of(node))


def weight_product(
    run: Propagation, node: fx.Node, x: Any, weight: Weight, bias: Any, in_axis: int
) -> Tensor:
    """Multiply the last axis of ``x`` with a weight of two axes, of which ``in_axis`` reads."""
    x = run.lift(x)
    if (channels := _over_places(run, node, x, x.dim() - 1, weight, 1 - in_axis)) is not None:
        return channels
    _read(run, node, x, x.dim() - 1, run.axis(weight, in_axis, "in"))
    labels = run.axis(weight, 1 - in_axis, "out")
    _add_bias(run, node, labels, bias)
    shape = shape_of(node)
    run.charge(weight, (0, 1), float(prod(shape) * weight.sizes[in_axis]))
    return spread(labels, shape, len(shape) - 1)


@rule("aten.linear.default")
def linear(run: Propagation, node: fx.Node, x: Any, weight: Any, bias: Any = None) -> Any:
    """y[..., o] = sum_i W[o, i] x[..., i] + b[o]."""
    if not is_weight(weight):
        return run.unlike_weight(node, (x, weight, bias), weight)
    return weight_product(run, node, x, weight, bias, in_axis=1)


@rule("aten.addmm.default")
def addmm(run: Propagation, node: fx.Node, bias: Any, x: Any, weight: Any, **kwargs: Any) -> Any:
    """y[..., o] = sum_i x[..., i] W[i, o] + b[o]."""
    if not is_weight(weight) or is_weight(x) or kwargs:
        return run.unlike_weight(node, (bias, x, weight), weight)
    return weight_product(run, node, x, weight, bias, in_axis=0)


def product_with_weight_first(run: Propagation, node: fx.Node, weight: Weight, x: Any) -> Tensor:
    """y[..., o, n] = sum_i W[o, i] x[..., i, n]."""
    x = run.lift(x)
    if (channels := _over_places(run, node, x, x.dim() - 2, weight, 0)) is not None:
        return channels
    _read(run, node, x, x.dim() - 2, run.axis(weight, 1, "in"))
    labels = run.axis(weight, 0, "out")
    run.charge(weight, (0, 1), float(prod(shape_of(node)) * weight.sizes[1]))
    return spread(labels, shape_of(node), len(shape_of(node)) - 2)


@rule(*(f"aten.conv{n}d.{kind}" for n in (1, 2, 3) for kind in ("default", "padding")))
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
    if not is_weight(weight) or x.dim() != len(weight.axes):
        return run.unlike_weight(node, (x, weight, bias), weight)
    if groups == 1:
        _read(run, node, x, 1, run.axis(weight, 1, "in"))
        labels = run.axis(weight, 0, "out")
    else:
        labels = _grouped(run, node, x, weight, groups)
    run.mark(labels, "filter")
    _add_bias(run, node, labels, bias)
    shape = shape_of(node)
    macs = float(prod(shape) * prod(weight.sizes[1:]))
    run.charge(weight, (0,) if groups > 1 and weight.sizes[1] == 1 else (0, 1), macs)
    return spread(labels, shape, 1)


def _grouped(run: Propagation, node: fx.Node, x: Tensor, weight: Weight, groups: int) -> Tensor:
    reason = f"the groups of a convolution must stay equal{place(node)}"
    channels = channels_of(run, x, 1, f"it carries plain data{place(node)}")
    if weight.sizes[1] == 1:
        labels = run.axis(weight, 0, "tied")
        run.space.unite(channels.repeat_interleave(len(labels) // groups), labels, reason)
        return labels
    local = run.axis(weight, 1, "in")
    run.space.unite(channels, local.repeat(groups), reason)
    labels = run.axis(weight, 0, "out")
    per_group = labels.reshape(groups, -1)
    run.space.unite(per_group[:1].expand_as(per_group), per_group, reason)
    return labels


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
    if not is_weight(weight) or groups != 1 or x.dim() != len(weight.axes):
        return run.unlike_weight(node, (x, weight, bias), weight)
    _read(run, node, x, 1, run.axis(weight, 0, "in"))
    labels = run.axis(weight, 1, "out")
    run.mark(labels, "filter")
    _add_bias(run, node, labels, bias)
    run.charge(weight, (0, 1), float(x.numel() * prod(weight.sizes[1:])))
    return spread(labels, shape_of(node), 1)


@rule("aten.embedding.default")
def embedding(run: Propagation, node: fx.Node, weight: Any, indices: Any, *args: Any) -> Any:
    """A table lookup: its columns are made like the outputs of a linear map."""
    if not is_weight(weight):
        return run.unlike_weight(node, (weight, indices), weight)
    reason = f"rows of an embedding are chosen by data{place(node)}"
    run.space.fix(run.axis(weight, 0, "in"), reason)
    run.space.fix(run.lift(indices), reason)
    labels = run.axis(weight, 1, "out")
    return spread(labels, shape_of(node), len(shape_of(node)) - 1)


@rule("aten.prelu.default")
def prelu(run: Propagation, node: fx.Node, x: Any, weight: Any) -> Any:
    """PReLU: one slope for all channels, or one per channel that goes with it."""
    x = run.lift(x)
    if not is_weight(weight):
        return run.unlike_weight(node, (x, weight), weight)
    if weight.sizes[0] > 1:
        reason = f"it meets plain data{place(node)}"
        channels = channels_of(run, x, min(1, x.dim() - 1), reason)
        run.space.unite(channels, run.axis(weight, 0, "tied"), reason)
    return x
