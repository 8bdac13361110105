"""Running statistics of BatchNorm, measured again on a model that has changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import islice

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from natsel.common.calls import Inputs, call
from natsel.common.errors import first_line, refuse
from natsel.common.hooks import watching


def renormalize(
    model: nn.Module, changed: Collection[str], data: Callable[[], Iterable[Inputs]]
) -> list[str]:
    """Measure the running statistics of BatchNorm again: their average over the batches.

    Only of layers that run after a changed module did: the others read what they always read, and
    know it from more data. All else runs as in evaluation; no mode, momentum or weight changes.

    Args:
        model: changed in place.
        changed: paths of modules that compute something else than before.
        data: starts to read the inputs, of at least two values per channel.

    Returns:
        The names of the statistics that changed.

    Raises:
        ValueError: if a batch is too small for a variance.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    momenta: list[tuple[_BatchNorm, float | None]] = []
    try:
        layers = _after(model, changed, data()) if changed else {}
        for layer in layers.values():
            momenta.append((layer, layer.momentum))
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        with torch.no_grad():
            for inputs in data() if layers else ():
                call(model, inputs)
    except ValueError as error:
        refuse("data", "a batch", f"what BatchNorm takes a variance of ({first_line(error)})")
    finally:
        for module, mode in modes:
            module.training = mode
        for layer, momentum in momenta:
            layer.momentum = momentum
    return [f"{name}.{which}" for name in layers for which in ("running_mean", "running_var")]


def _after(
    model: nn.Module, changed: Collection[str], data: Iterable[Inputs]
) -> dict[str, _BatchNorm]:
    """Return the layers with running statistics that run after a changed module, by name."""
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    if not layers:
        return {}
    order: list[str] = []
    modules = {name: model.get_submodule(name) for name in {*changed, *layers}}
    with watching(modules, lambda name, *_: order.append(name)), torch.no_grad():
        for inputs in islice(data, 1):
            call(model, inputs)
    if set(changed) - set(order):
        # One that is read without being called may have run at any time.
        return layers
    start = min(order.index(name) for name in changed)
    return {name: layer for name, layer in layers.items() if name in order[start:]}
