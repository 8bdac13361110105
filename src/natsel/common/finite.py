"""Which weight of a model is no number: what is NaN behind it says only where it was met."""

from __future__ import annotations

import torch
from torch import nn


def nonfinite(model: nn.Module) -> str | None:
    """Return the name of the first parameter or buffer that holds NaN or infinity, if one does.

    Infinite entries of buffers are left alone: masks of attention are made of them.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> nonfinite(model)
        >>> _ = model.weight.data.fill_(float("nan"))
        >>> nonfinite(model)
        'weight'
    """
    for name, value in model.named_parameters():
        if not value.is_meta and not bool(torch.isfinite(value.detach()).all()):
            return name
    for name, buffer in model.named_buffers():
        if not buffer.is_meta and bool(buffer.isnan().any()):
            return name
    return None


def of_weights(model: nn.Module, where: str = "") -> str:
    """Return what a message says of a weight that is no number, nothing if all of them are.

    Args:
        model: or a part of one.
        where: path of the part in the whole model, if it is one.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> _ = model.bias.data.fill_(float("inf"))
        >>> of_weights(model), of_weights(nn.Linear(2, 1))
        (': bias of the model holds NaN or infinity', '')
    """
    name = nonfinite(model)
    path = f"{where}.{name}" if where else name
    return "" if name is None else f": {path} of the model holds NaN or infinity"
