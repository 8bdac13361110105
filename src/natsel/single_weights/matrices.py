"""Layers as matrices ``[outputs, inputs]``, and what enters them as rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.hooks import as_rows
from natsel.common.padding import without_padding

CONV1D = "transformers.pytorch_utils.Conv1D"
"""A Linear with its weight transposed."""


def is_transposed(layer: nn.Module) -> bool:
    """Tell whether a layer holds its weight as ``[inputs, outputs]``."""
    return f"{type(layer).__module__}.{type(layer).__qualname__}" == CONV1D


def is_matrix(layer: nn.Module) -> bool:
    """Tell whether each output of a layer is a weighted sum of one row that enters it.

    Example:
        >>> is_matrix(nn.Linear(2, 3)), is_matrix(nn.Conv2d(4, 4, 3, groups=2))
        (True, False)
    """
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and layer.padding != "same"
    return isinstance(layer, nn.Linear) or is_transposed(layer)


def as_matrix(layer: nn.Module, tensor: Tensor) -> Tensor:
    """Return a tensor of the shape of a layer's weight as ``[outputs, inputs]``; a view of it."""
    return tensor.T if is_transposed(layer) else tensor.flatten(1)


def like_weight(layer: nn.Module, matrix: Tensor) -> Tensor:
    """Return a matrix ``[outputs, inputs]`` in the shape of a layer's weight."""
    weight = layer.get_parameter("weight")
    return matrix.T.contiguous() if is_transposed(layer) else matrix.reshape(weight.shape)


def rows_entering(layer: nn.Module, x: Tensor) -> Tensor:
    """Return what enters a layer as rows ``[rows, inputs]``; padding is left out.

    Example:
        >>> import torch
        >>> rows_entering(nn.Conv2d(2, 1, 3), torch.zeros(1, 2, 4, 4)).shape
        torch.Size([4, 18])
    """
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str) or layer.padding == "valid"
        padding = 0 if isinstance(layer.padding, str) else layer.padding
        batch = x if x.dim() == 4 else x[None]
        taps = F.unfold(batch, layer.kernel_size, layer.dilation, padding, layer.stride)
        return as_rows(taps, 1)
    return as_rows(without_padding(layer, x, -1), -1)


def matrices_in(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a module that are matrices, by the name of their weight.

    Args:
        module: that holds them, or is one.
        prefix: the path of the module.
    """
    for path, layer in module.named_modules(prefix=prefix):
        if is_matrix(layer):
            yield f"{path}.weight" if path else "weight", layer
