"""Budgets of weights that say where survivors lie: N of each M, and whole blocks."""

from __future__ import annotations

from dataclasses import dataclass

from natsel.common.errors import refuse
from natsel.common.numbers import check_whole, is_whole
from natsel.selection.budget import Sparsity


@dataclass(frozen=True)
class NM:
    """Of each M neighbours along the input dimension the N fittest weights survive.

    Attributes:
        num_kept: N, at least 1.
        num_all: M, more than N.

    Example:
        >>> NM(2, 4).sparsity
        0.5
    """

    num_kept: int
    num_all: int

    def __post_init__(self) -> None:
        for name in ("num_kept", "num_all"):
            check_whole(name, getattr(self, name))
        if self.num_kept >= self.num_all:
            refuse("num_kept", self.num_kept, f"fewer than num_all={self.num_all}")

    @property
    def sparsity(self) -> float:
        """The share of the weights that goes."""
        return 1 - self.num_kept / self.num_all


@dataclass(frozen=True)
class Blocks:
    """A share of the blocks of a shape goes; a block is as fit as its weights are on average.

    Attributes:
        value: the share, in [0, 1).
        shape: outputs and inputs in a block; what lies behind those two dimensions, as the window
            of a convolution does, belongs to the block.

    Example:
        >>> Blocks(0.5, shape=(1, 4))
        Blocks(value=0.5, shape=(1, 4))
    """

    value: float
    shape: tuple[int, int] = (4, 4)

    def __post_init__(self) -> None:
        Sparsity(self.value)
        ok = isinstance(self.shape, tuple) and len(self.shape) == 2
        if not ok or not all(is_whole(n) for n in self.shape):
            refuse("shape", self.shape, "two whole numbers >= 1, outputs and inputs")
