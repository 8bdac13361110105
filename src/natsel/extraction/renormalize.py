"""Running statistics of BatchNorm, measured again on a model that has changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from natsel.common.calls import Inputs, call
from natsel.common.errors import first_line, refuse


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a model that have running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }


def renormalize(model: nn.Module, batches: Iterable[Inputs]) -> list[str]:
    """Measure the running statistics of every BatchNorm again: their average over the batches.

    All else runs as in evaluation; no mode, momentum or weight changes.

    Args:
        model: changed in place.
        batches: inputs, of at least two values per channel.

    Returns:
        The names of the statistics that changed.

    Raises:
        ValueError: if a batch is too small for a variance.
    """
    layers = batch_norms(model)
    if not layers:
        return []
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(layer, layer.momentum) for layer in layers.values()]
    model.eval()
    try:
        for layer in layers.values():
            assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        with torch.no_grad():
            for inputs in batches:
                call(model, inputs)
    except ValueError as error:
        refuse("data", "a batch", f"what BatchNorm takes a variance of ({first_line(error)})")
    finally:
        for module, mode in modes:
            module.training = mode
        for layer, momentum in momenta:
            layer.momentum = momentum
    return [f"{name}.{which}" for name in layers for which in ("running_mean", "running_var")]
