"""Normalisations: their parameters go with the channels; what they average over is tied."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from natsel.communities.labels.graph import is_weight, module_of, place
from natsel.communities.labels.labels import narrowed
from natsel.communities.labels.propagation import Propagation, rule


def _tie_parameters(run: Propagation, channels: Tensor, *parameters: Any) -> None:
    for parameter in parameters:
        if is_weight(parameter):
            run.space.unite(channels, run.axis(parameter, 0, "tied"), "it meets plain data")
        elif isinstance(parameter, Tensor):
            run.space.unite(channels, parameter, "its scale or shift is computed from plain data")


@rule("aten.batch_norm.default", "aten.instance_norm.default")
def batch_norm(
    run: Propagation,
    node: fx.Node,
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    *args: Any,
) -> Any:
    """Each channel is scaled and shifted by numbers of its own."""
    x = run.lift(x)
    over = tuple(i for i in range(x.dim()) if i != 1)
    channels = run.space.unite_along(x, over, f"it meets plain data{place(node)}").reshape(-1)
    _tie_parameters(run, channels, weight, bias, mean, variance)
    ref = next((p for p in (weight, mean) if is_weight(p)), None)
    if ref is None:
        run.normed[module_of(node)].append(channels)
    labels = channels if ref is None else run.axis(ref, 0, "tied")
    view = [1] * x.dim()
    view[1] = -1
    return labels.reshape(view).expand(x.shape)


@rule("aten._native_batch_norm_legit_no_training.default")
def functional_batch_norm(run: Propagation, node: fx.Node, *args: Any) -> Any:
    """The same, as it reads in a graph that was made functional; the statistics are not used."""
    return batch_norm(run, node, *args), None, None


@rule("aten.layer_norm.default", "aten.rms_norm.default")
def layer_norm(
    run: Propagation,
    node: fx.Node,
    x: Any,
    shape: Any,
    weight: Any = None,
    bias: Any = None,
    *args: Any,
) -> Any:
    """Everything that is normalised together stands or falls together."""
    x = run.lift(x)
    axes = tuple(range(x.dim() - len(shape), x.dim()))
    reason = f"normalised together with its neighbours{place(node)}"
    parameters = [p for p in (weight, bias) if is_weight(p)]
    if len(axes) == 1 and (node in run.unused or run.spans_width(x, axes[0])):
        channels = run.space.unite_along(x, tuple(range(x.dim() - 1)), reason).reshape(-1)
        for parameter in parameters:
            run.space.unite(channels, run.axis(parameter, 0, "tied"), reason)
        return x
    note_mixed(run, x, axes, reason)
    result = run.space.unite_along(x, axes, reason).expand(x.shape)
    if len(shape) == 1:
        for parameter in parameters:
            labels = run.axis(parameter, 0, "tied")
            met = run.space.roots(x).reshape(-1, x.shape[-1])
            same = (met == met[:1]).all(0)
            run.space.unite(met[0][same], labels[same], reason)
    return result


@rule("aten.group_norm.default")
def group_norm(
    run: Propagation,
    node: fx.Node,
    x: Any,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    *args: Any,
) -> Any:
    """The channels of a group are normalised together; with one channel each they are free."""
    x = run.lift(x)
    reason = f"normalised together with its group{place(node)}"
    grouped = x.reshape(x.shape[0], groups, -1)
    note_mixed(run, grouped, (2,), reason)
    merged = run.space.unite_along(grouped, (2,), reason).expand(grouped.shape).reshape(x.shape)
    channels = merged.amax(dim=tuple(i for i in range(x.dim()) if i != 1))
    _tie_parameters(run, channels, weight, bias)
    return merged


@rule(
    "aten.softmax.int", "aten.log_softmax.int", "aten._softmax.default", "aten._log_softmax.default"
)
def softmax(run: Propagation, node: fx.Node, x: Any, dim: int, *args: Any) -> Any:
    """What competes in one softmax stands or falls together."""
    x = run.lift(x)
    if node in run.routing or node in run.unused:
        return x
    reason = f"it shares a softmax{place(node)}"
    note_mixed(run, x, (dim % x.dim(),), reason)
    return run.space.unite_along(x, (dim % x.dim(),), reason).expand(x.shape)


@rule(
    *("aten.cumsum.default", "aten.cumprod.default", "aten.logcumsumexp.default"),
    *("aten.cummax.default", "aten.cummin.default"),
)
def running(run: Propagation, node: fx.Node, x: Any, dim: int, *args: Any, **kwargs: Any) -> Any:
    """What is summed up along an axis stands or falls together there."""
    x = run.lift(x)
    axes = (dim % x.dim(),) if x.dim() else ()
    reason = f"it is summed up with its neighbours{place(node)}"
    if node not in run.unused:
        note_mixed(run, x, axes, reason)
        x = run.space.unite_along(x, axes, reason).expand(x.shape)
    return (x, x) if isinstance(node.meta["val"], list | tuple) else x


def note_mixed(run: Propagation, x: Tensor, axes: tuple[int, ...], reason: str) -> None:
    """Note which classes are about to be tied because they meet along ``axes``.

    Removing some of what is normalised or summed together changes the rest: no masked network
    equals it. So it becomes one population that stands or falls as a whole.
    """
    x = narrowed(x)
    roots = run.space.roots(x)
    low, high = roots.amin(dim=axes, keepdim=True), roots.amax(dim=axes, keepdim=True)
    mixed = (low != high).expand(x.shape)
    if bool(mixed.any()):
        run.space.note(x[mixed], reason)
