"""Set weights to zero where they are: the one thing in this room that writes into a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from natsel.common.errors import choose, refuse
from natsel.selection.survivors import PackedSurvivors, unpacked
from natsel.single_weights.weights import Weights

PIECE = 1 << 17
"""Weights that are set at once; a whole number of bytes of packed masks."""

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def zero_(weights: Weights | nn.Module, survivors: Mapping[str, Tensor]) -> None:
    """Set every weight that does not survive to zero, in place.

    What survives keeps its bits. Nothing is written before everything was checked.

    Args:
        weights: :class:`natsel.Weights`, or the model that they are of.
        survivors: a mask for each tensor that shall change, of its shape; from
            :func:`natsel.select`.

    Raises:
        ValueError: if a name is unknown, or a mask is no boolean tensor of the tensor's shape.

    Example:
        >>> import natsel
        >>> weights = natsel.Weights({"w": torch.tensor([0.3, -0.9, 0.1, 0.2])})
        >>> zero_(weights, natsel.select(weights, natsel.Sparsity(0.5)))
        >>> weights["w"]
        tensor([ 0.3000, -0.9000,  0.0000,  0.0000])
    """
    if isinstance(weights, nn.Module):
        tensors = {n: p.detach() for n, p in weights.named_parameters(remove_duplicate=False)}
    elif isinstance(weights, Weights):
        tensors = dict(weights)
    else:
        refuse("weights", weights, "natsel.Weights, or a model")
    if not isinstance(survivors, Mapping):
        refuse("survivors", survivors, "what natsel.select returns")
    packed = isinstance(survivors, PackedSurvivors)
    for name in survivors:
        choose("survivors", name, tensors)
        shape, kind = _of(survivors, name)
        if shape != tensors[name].shape or kind != torch.bool:
            allowed = f"a mask of booleans of shape {tuple(tensors[name].shape)}"
            refuse(f"survivors[{name!r}]", f"{kind} of shape {tuple(shape)}", allowed)
    for name in survivors:
        weight = tensors[name]
        if not weight.is_contiguous() or weight.itemsize not in BITS:
            weight.masked_fill_(~survivors[name].to(weight.device), 0)
            continue
        bits = weight.view(-1).view(BITS[weight.itemsize])
        if packed:
            assert isinstance(survivors, PackedSurvivors)
            masks = torch.split(survivors.bits[name], PIECE // 8)
        else:
            masks = torch.split(survivors[name].reshape(-1), PIECE)
        for part, mask in zip(torch.split(bits, PIECE), masks, strict=True):
            kept = unpacked(mask, part.shape) if packed else mask
            # All bits of those that stay, none of the others.
            part.mul_(kept.to(part.device))


def _of(survivors: Mapping[str, Tensor], name: str) -> tuple[torch.Size, torch.dtype]:
    if isinstance(survivors, PackedSurvivors):
        return survivors.shape_of(name), torch.bool
    mask = survivors[name]
    if not isinstance(mask, Tensor):
        refuse(f"survivors[{name!r}]", type(mask).__name__, "a tensor of booleans")
    return mask.shape, mask.dtype
