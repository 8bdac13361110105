"""Weights that were set to zero before, and stay it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from natsel.extraction import has_plan, plan_of

MANY = 0.2
"""Share of exact zeros from which on they are taken to be meant."""


def zeros_of(model: nn.Module, keep: bool | None) -> dict[str, Tensor]:
    """Return which weights of linear maps and convolutions stay zero.

    Args:
        model: the small one.
        keep: True for every weight that is exactly zero, False for none; None for those of a
            tensor of which more than a fifth is zero, and for all where the plan says that single
            weights were removed.

    Returns:
        By the name of the parameter, where something is *not* zero, bool of its shape; names where
        nothing stays zero are left out.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer.weight = nn.Parameter(torch.tensor([[0.0, 1.0]]))
        >>> zeros_of(layer, None)
        {'weight': tensor([[False,  True]])}
    """
    if keep is False:
        return {}
    planned = has_plan(model) and plan_of(model).conversion is not None
    least = 0.0 if keep or planned else MANY
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.dim() < 2 or not weight.numel():
            continue
        if isinstance(module, nn.Embedding):
            continue
        there = weight.detach() != 0
        if 1 - int(there.sum()) / there.numel() > least:
            found[f"{path}.weight".lstrip(".")] = there
    return found


def said(masks: Mapping[str, Tensor]) -> str:
    """Return in words what stays zero; nothing if nothing does."""
    if not masks:
        return ""
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    count = sum(mask.numel() for mask in masks.values())
    return f"{zeros:,} of {count:,} weights in {len(masks)} tensors are zero and stay it"
