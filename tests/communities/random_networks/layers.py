"""Perceptrons and convolutions in the many ways in which people write them: one function each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Parts = Callable[[int, int], dict[str, Any]]
Forward = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Way:
    """One way to write a layer.

    Attributes:
        forward: of the layer and its input.
        parts: its modules and tensors, given the width around it and the one inside.
        removable: whether its hidden populations can go; None where either answer is right.
    """

    forward: Forward
    parts: Parts
    removable: bool | None


PERCEPTRONS: dict[str, Way] = {}
CONVOLUTIONS: dict[str, Way] = {}
LIBRARY: dict[str, Way] = {}
"""Layers of torch itself, as they are used on [B, T, C]; their heads are as many as divide C."""


class Layer(nn.Module):
    """A layer whose forward is a function of itself; ``hidden`` is its inner width."""

    def __init__(self, way: Way, width: int, hidden: int) -> None:
        super().__init__()
        self.function = way.forward
        self.hidden, self.dim = hidden, width
        for name, part in way.parts(width, hidden).items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def perceptron(
    up: float = 1, down: float = 1, *, removable: bool | None = True, parts: Parts | None = None
) -> Callable[[Forward], Forward]:
    """Register a perceptron with ``up`` and ``down``, so many times as wide as it is inside."""

    def register(forward: Forward) -> Forward:
        def build(width: int, hidden: int) -> dict[str, Any]:
            made = {
                "up": nn.Linear(width, int(up * hidden)),
                "down": nn.Linear(int(down * hidden), width),
            }
            return made | (parts(width, hidden) if parts else {})

        PERCEPTRONS[forward.__name__] = Way(forward, build, removable)
        return forward

    return register


def convolution(
    up: float = 1,
    down: float = 1,
    *,
    removable: bool | None = True,
    kernel: int = 1,
    parts: Parts | None = None,
) -> Callable[[Forward], Forward]:
    """Register a layer of convolutions with ``up`` and ``down``."""

    def register(forward: Forward) -> Forward:
        def build(width: int, hidden: int) -> dict[str, Any]:
            made = {
                "up": nn.Conv2d(width, int(up * hidden), kernel, padding=kernel // 2),
                "down": nn.Conv2d(int(down * hidden), width, kernel, padding=kernel // 2),
            }
            return made | (parts(width, hidden) if parts else {})

        CONVOLUTIONS[forward.__name__] = Way(forward, build, removable)
        return forward

    return register


def matrix(*shape: int) -> nn.Parameter:
    """Return a parameter of noise."""
    return nn.Parameter(torch.randn(shape) * 0.2)
