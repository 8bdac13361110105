"""Structure shows on a small picture as well as on a large one, in a fraction of the time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, call, outputs_of, tensors_of_inputs, with_tensors

SIDES = (48, 64, 96, 128)
"""Sides that are tried, the least first: of 48, halved five times, four places are left."""


def shrunk(model: nn.Module, inputs: Inputs) -> Inputs:
    """Return inputs with smaller pictures, where a model takes them as it takes those given.

    It does where it runs and returns tensors of the same shapes: a classifier that averages over
    the places of its last maps, not one with a table of positions, nor one that returns pictures.

    Args:
        model: in evaluation mode; it is run.
        inputs: what it runs on.

    Returns:
        A corner of each picture ``[B, C, H, W]``, or the inputs as they are.
    """
    tensors = tensors_of_inputs(inputs)
    sides = [min(x.shape[2:]) for x in tensors if _is_picture(x)]
    if not sides:
        return inputs
    expected = _shapes(model, inputs)
    for side in (s for s in SIDES if 2 * s <= min(sides)):
        few = with_tensors(inputs, [_corner(x, side) for x in tensors])
        try:
            found = _shapes(model, few)
        except Exception:  # noqa: BLE001, S112 - whatever forward raises: it wants its own size
            continue
        if found == expected:
            return few
    return inputs


def _is_picture(x: Tensor) -> bool:
    return x.is_floating_point() and x.dim() == 4


def _corner(x: Tensor, side: int) -> Tensor:
    return x[..., :side, :side].contiguous() if _is_picture(x) else x


def _shapes(model: nn.Module, inputs: Inputs) -> Sequence[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(x.shape) for x in outputs_of(call(model, inputs))]
