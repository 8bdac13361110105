"""What a plan says of dense tensors with zeros: enough to know the mask again, and to prove it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from natsel.common.errors import refuse


def record(weight: Tensor, mask: Tensor) -> dict[str, Any]:
    """Return what tells a mask from the zeros of its weights.

    Example:
        >>> weight = torch.tensor([1.0, 0.0, 0.0])
        >>> kept = record(weight, torch.tensor([True, True, False]))
        >>> kept["kept"], kept["size"], kept["zeros"]
        (2, 3, [1])
    """
    mask = mask.detach().cpu()
    there = weight.detach().cpu() != 0
    zeros = (mask & ~there).flatten().nonzero().flatten().tolist()
    return {
        "kept": int(mask.sum()),
        "size": mask.numel(),
        "zeros": zeros,
        "sha256": _digest(mask),
    }


def masks_from(tensors: Mapping[str, Tensor], records: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the masks that records speak of.

    Raises:
        ValueError: if the zeros of a tensor are not those.
    """
    masks = {}
    for name, found in records.items():
        if name not in tensors or tensors[name].numel() != found["size"]:
            refuse("model", f"one without {name} of {found['size']:,} weights", "the sparse model")
        mask = (tensors[name].detach() != 0).cpu()
        mask.view(-1)[torch.tensor(found["zeros"], dtype=torch.int64)] = True
        if _digest(mask) != found["sha256"]:
            told = f"{int(mask.sum()):,} weights of {name} that are not 0"
            allowed = f"the {found['kept']:,} that stayed: natsel.hold keeps them while it trains"
            refuse("model", told, allowed)
        masks[name] = mask
    return masks


def check_records(records: Any) -> None:
    """Make sure that records are what :func:`record` writes.

    Raises:
        ValueError: if they are not.
    """
    for found in records.values():
        counts = (found["kept"], found["size"], *found["zeros"])
        if set(found) != {"kept", "size", "zeros", "sha256"} or type(found["sha256"]) is not str:
            raise ValueError("records of masks")
        if not all(type(n) is int and 0 <= n <= found["size"] for n in counts):
            raise ValueError("records of masks")
        if any(place >= found["size"] for place in found["zeros"]):
            raise ValueError("records of masks")


def _digest(mask: Tensor) -> str:
    return hashlib.sha256(np.packbits(mask.contiguous().view(-1).numpy()).tobytes()).hexdigest()
