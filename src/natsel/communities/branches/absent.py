"""What stands where a module went with its branch: nothing is computed there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Absent(nn.Module):
    """Hands on the first tensor that it is given, or zeros of its shape.

    Args:
        zero: whether zeros come out.
        arity: how many values come out, the tensor first; 0 for the one tensor.
        passed: for each value by what name, or at what place, it is given; those of the others are
            None.

    Example:
        >>> Absent(True)(torch.ones(2)), Absent(False, 2)(torch.ones(1))
        (tensor([0., 0.]), (tensor([1.]), None))
        >>> Absent(False, 2, ("", "bias"))(torch.ones(1), bias=3)
        (tensor([1.]), 3)
    """

    def __init__(self, zero: bool, arity: int = 0, passed: Sequence[str] = ()) -> None:
        super().__init__()
        self.zero = zero
        self.arity = arity
        self.passed = tuple(passed)

    def forward(self, *args: Any, **named: Any) -> Any:
        """Return what is handed on; the rest of what it is given is not read."""
        given = {**{str(place): value for place, value in enumerate(args)}, **named}
        x = next(value for value in given.values() if isinstance(value, Tensor))
        y = torch.zeros_like(x) if self.zero else x
        return (y, *map(given.get, self._others())) if self.arity else y

    def _others(self) -> tuple[str, ...]:
        return (*self.passed[1:], *([""] * self.arity))[: self.arity - 1]

    def extra_repr(self) -> str:
        """Say what comes out."""
        return "zeros" if self.zero else "what enters"
