"""What stands where a module went with its branch: nothing is computed there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Absent(nn.Module):
    """Hands on the first tensor that it is given, or zeros of its shape.

    Args:
        zero: whether zeros come out.
        arity: how many values come out, all but the first of them None; 0 for the one tensor.

    Example:
        >>> Absent(True)(torch.ones(2)), Absent(False, 2)(torch.ones(1))
        (tensor([0., 0.]), (tensor([1.]), None))
    """

    def __init__(self, zero: bool, arity: int = 0) -> None:
        super().__init__()
        self.zero = zero
        self.arity = arity

    def forward(self, *args: Any, **named: Any) -> Any:
        """Return what is handed on; the rest of what it is given is not read."""
        values = (*args, *named.values())
        x = next(value for value in values if isinstance(value, Tensor))
        y = torch.zeros_like(x) if self.zero else x
        return (y, *([None] * (self.arity - 1))) if self.arity else y

    def extra_repr(self) -> str:
        """Say what comes out."""
        return "zeros" if self.zero else "what enters"
