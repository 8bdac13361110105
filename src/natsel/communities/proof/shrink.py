"""Structure shows on a small picture as well as on a large one, in a fraction of the time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, call, outputs_of, tensors_of_inputs, with_tensors
from natsel.communities.untouched import untouched

SIDES = (16, 24, 32, 48, 64, 96, 128)
"""Sides that are tried, the least first."""

NUMBERS = (bool, int, float, str, tuple)
PLACES = 2
"""How many places are left along each side of every map, where there were as many."""


def shrunk(model: nn.Module, inputs: Inputs) -> Inputs:
    """Return inputs with smaller pictures, where a model takes them as it takes those given.

    It does where it runs, returns tensors of the same shapes, keeps some places in every map on
    the way, and changes none of its own numbers, such as a window that is no wider than a map: a
    classifier that averages over the places of its last maps, not one with a table
    of positions, nor one that returns pictures. Of 48, halved five times, 2 x 2 places are left.

    Args:
        model: in evaluation mode; it is run.
        inputs: what it runs on.

    Returns:
        A corner of each picture ``[B, C, H, W]``, or the inputs as they are.
    """
    tensors = tensors_of_inputs(inputs)
    sides = [min(x.shape[2:]) for x in tensors if _is_picture(x)]
    if not sides or 2 * SIDES[0] > min(sides):
        return inputs
    with untouched(model):
        expected, before = _shapes(model, inputs)
    for side in (s for s in SIDES if 2 * s <= min(sides)):
        few = with_tensors(inputs, [_corner(x, side) for x in tensors])
        numbers = _numbers(model)
        try:
            with untouched(model):
                found, after = _shapes(model, few)
                is_same = _numbers(model) == numbers
        except Exception:  # noqa: BLE001, S112 - whatever forward raises: it wants its own size
            continue
        if is_same and found == expected and _keeps_places(before, after):
            return few
    return inputs


def _is_picture(x: Tensor) -> bool:
    return x.is_floating_point() and x.dim() == 4


def _corner(x: Tensor, side: int) -> Tensor:
    return x[..., :side, :side].contiguous() if _is_picture(x) else x


def _keeps_places(before: Sequence[int], after: Sequence[int]) -> bool:
    """Tell whether maps that had places to tell apart still have."""
    return len(before) == len(after) and all(
        few >= min(many, PLACES) for many, few in zip(before, after, strict=True)
    )


def _numbers(model: nn.Module) -> list[Any]:
    return [v for m in model.modules() for v in vars(m).values() if type(v) in NUMBERS]


def _shapes(model: nn.Module, inputs: Inputs) -> tuple[Sequence[tuple[int, ...]], Sequence[int]]:
    """Return the shapes of what a model returns, and the least side of each map on the way."""
    sides: list[int] = []

    def note(_: nn.Module, __: object, made: object) -> None:
        if isinstance(made, Tensor) and made.dim() == 4:
            sides.append(min(made.shape[2:]))

    handles = [m.register_forward_hook(note) for m in model.modules()]
    try:
        with torch.no_grad():
            shapes = [tuple(x.shape) for x in outputs_of(call(model, inputs))]
    finally:
        for handle in handles:
            handle.remove()
    return shapes, sides
