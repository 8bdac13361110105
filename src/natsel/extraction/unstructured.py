"""Single weights that are gone: masks by parameter, and layers that hold only what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, call
from natsel.common.errors import choose, first_line, refuse
from natsel.common.hooks import entering, watching
from natsel.common.modes import evaluating
from natsel.common.timing import time_in_turn
from natsel.communities.copies import copied
from natsel.communities.tensors import all_tensors, tensors_of, tied_names
from natsel.extraction.conversion import Conversion, Layer, is_gain
from natsel.extraction.csr import CsrLinear

ROWS = 64
"""Inputs that a layer is timed on where nobody says what the model reads."""

REPEATS = 30


def is_unstructured(model: nn.Module, survivors: Mapping[str, Tensor]) -> bool:
    """Say whether survivors are masks of single weights: all of their names are parameters'."""
    names = dict(model.named_parameters())
    return bool(survivors) and all(name in names for name in survivors)


def check_masks(model: nn.Module, survivors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return masks of single weights, made sure that they fit a model.

    Raises:
        ValueError: if there is none, a name is no parameter of the model, or a mask is not
            boolean or has another shape than its parameter.
    """
    parameters = dict(model.named_parameters())
    if not survivors:
        refuse("survivors", {}, "a boolean mask for at least one parameter")
    for name, mask in survivors.items():
        choose("survivors", name, parameters)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            refuse(f"survivors[{name!r}]", found, "a tensor of booleans")
        if mask.shape != parameters[name].shape:
            allowed = f"a mask of shape {tuple(parameters[name].shape)}, that of the parameter"
            refuse(f"survivors[{name!r}]", tuple(mask.shape), allowed)
    return {name: mask.detach().cpu() for name, mask in survivors.items()}


def masked_weights(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a model in which the weights that do not survive are 0.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> masked_weights(model, {"weight": torch.tensor([[True, False]])}).weight[0, 1].item()
        0.0
    """
    masked = copied(model, {})
    tensors = tensors_of(masked)
    with torch.no_grad():
        for name, mask in masks.items():
            tensors[name].masked_fill_(~mask.to(tensors[name].device), 0)
    return masked


def convert(
    masked: nn.Module, masks: Mapping[str, Tensor], inputs: Inputs | None
) -> tuple[nn.Module, Conversion]:
    """Return a model whose layers hold only surviving weights where that is measured to be faster.

    Args:
        masked: the model with zeros, see :func:`masked_weights`; it is not changed.
        masks: checked, by parameter.
        inputs: what the model runs on; each layer is timed on as many rows as it gets of them, or
            on 64 if there are none.

    Returns:
        The model, and what became of each layer.

    Raises:
        ValueError: if none of the masks belongs to an ``nn.Linear``.
    """
    small = copied(masked, {})
    linears = {f"{n}.weight".lstrip("."): n for n, m in small.named_modules() if _is_linear(m)}
    if not any(name in linears for name in masks):
        allowed = "a mask for the weight of at least one nn.Linear: only those can be converted"
        refuse("survivors", ", ".join(masks), allowed)
    tied = tied_names(small)
    shared = {*tied, *tied.values()}
    shapes = _entering(masked, [linears[n] for n in masks if n in linears], inputs)
    layers = []
    for name, mask in masks.items():
        kept, size = int(mask.sum()), mask.numel()
        if name not in linears:
            layers.append(Layer(name, kept, size, reason="stays dense: not the weight of a Linear"))
            continue
        path = linears[name]
        linear = small.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        layer = Layer(path or name, kept, size, linear.in_features, linear.out_features)
        reason = _obstacle(linear, kept == size, name in shared, path, shapes)
        if reason:
            layers.append(_dense(layer, reason))
            continue
        compressed = CsrLinear.of(linear, mask)
        layer = _timed(layer, linear, compressed, shapes[path])
        layers.append(layer)
        if not layer.reason:
            small = _put(small, path, compressed)
    return small, Conversion(tuple(layers))


def with_skeletons(model: nn.Module, conversion: Conversion) -> nn.Module:
    """Return a model with empty compressed layers in the places that a conversion names.

    Args:
        model: of the dense architecture; it is not changed, and shares its tensors.
        conversion: of a plan.

    Raises:
        ValueError: if the model has no such layer.
    """
    result = copied(model, {id(t): t for t in all_tensors(model).values()})
    modules = dict(result.named_modules())
    for layer in conversion.converted:
        path = "" if layer.name == "weight" and isinstance(result, nn.Linear) else layer.name
        linear = modules.get(path)
        if not isinstance(linear, nn.Linear):
            refuse("model", type(model).__name__, f"one with an nn.Linear at {layer.name}")
        largest = (linear.in_features, linear.out_features)
        sizes = (layer.in_features, layer.out_features)
        if sizes[0] > largest[0] or sizes[1] > largest[1] or layer.kept > sizes[0] * sizes[1]:
            refuse(f"plan {layer.name}", (*sizes, layer.kept), f"at most what {largest} holds")
        has_bias = linear.bias is not None
        skeleton = CsrLinear(*sizes, layer.kept, bias=has_bias, like=linear.weight)
        result = _put(result, path, skeleton)
    return result


def with_dense(model: nn.Module) -> nn.Module:
    """Return a model with a dense Linear for every compressed layer: where no other is known.

    Args:
        model: it is not changed; returned itself if it has no such layer.
    """
    compressed = [n for n, m in model.named_modules() if isinstance(m, CsrLinear)]
    if not compressed:
        return model
    result = copied(model, {id(t): t for t in all_tensors(model).values()})
    for path in compressed:
        layer = result.get_submodule(path)
        assert isinstance(layer, CsrLinear)
        result = _put(result, path, layer.dense())
    return result


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear


def _put(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put a module into its place and return the model, which is that module if the path is ""."""
    if not path:
        return module
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    return model


def _entering(
    model: nn.Module, paths: list[str], inputs: Inputs | None
) -> dict[str, tuple[int, ...]]:
    """Return the shape of what enters each layer; of one that is not called, nothing."""
    if inputs is None:
        return {p: (ROWS, _features(model.get_submodule(p))) for p in paths}
    shapes: dict[str, tuple[int, ...]] = {}

    def note(path: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        shapes.setdefault(path, tuple(entering(args, named).shape))

    modules = {path: model.get_submodule(path) for path in paths}
    with watching(modules, note), evaluating(model), torch.no_grad():
        call(model, inputs)
    return shapes


def _features(linear: nn.Module) -> int:
    assert isinstance(linear, nn.Linear)
    return linear.in_features


def _obstacle(
    linear: nn.Linear, is_whole: bool, is_shared: bool, path: str, shapes: Mapping[str, object]
) -> str:
    """Return why a layer is not even timed; nothing if it is."""
    if is_whole:
        return "nothing of it goes"
    if is_shared:
        return "its weight is shared"
    if linear._forward_hooks or linear._forward_pre_hooks:
        return "it has hooks"
    return "" if path in shapes else "the model does not call it"


def _dense(layer: Layer, reason: str) -> Layer:
    return replace(layer, reason=f"stays dense: {reason}")


def _timed(layer: Layer, linear: nn.Linear, compressed: CsrLinear, shape: tuple[int, ...]) -> Layer:
    """Time a layer both ways on random rows, compare what comes out, and decide."""
    weight = linear.weight
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight)
    rows = x.numel() // max(x.shape[-1], 1)
    try:
        with torch.no_grad():
            dense, csr = linear(x), compressed(x)
        times = time_in_turn({"dense": linear, "csr": compressed}, (x,), repeats=REPEATS)
    except RuntimeError as error:
        return _dense(layer, first_line(error))
    scale = float(dense.abs().max()) if dense.numel() else 0.0
    if not torch.allclose(dense, csr, rtol=0, atol=1e-4 * max(scale, 1e-30)):
        return _dense(layer, "the compressed product differs on this device")
    # What else the machine does can only lengthen a pass: the best tells most of short ones.
    best = {name: min(values) for name, values in times.items()}
    reason = "" if is_gain(best["dense"], best["csr"]) else "stays dense: that is faster"
    return replace(layer, rows=rows, dense_ms=best["dense"], csr_ms=best["csr"], reason=reason)
