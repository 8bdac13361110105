"""What must be reached."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from natsel.common.errors import refuse


@dataclass(frozen=True)
class Sparsity:
    """A share of the populations to remove.

    Attributes:
        value: the share, in [0, 1).
    """

    value: float

    def __post_init__(self) -> None:
        ok = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not ok or not math.isfinite(self.value) or not 0 <= self.value < 1:
            refuse("sparsity", self.value, "a number in [0, 1)")

    def count(self, size: int) -> int:
        """Return how many of ``size`` populations go: the nearest whole number, halves up.

        Example:
            >>> Sparsity(0.5).count(5)
            3
        """
        return nearest_count(self.value, size)


def nearest_count(share: float, size: int) -> int:
    """Return a share of a count as a whole number, halves up, of the number as it is written.

    Example:
        >>> nearest_count(0.29, 50), math.floor(0.29 * 50 + 0.5)
        (15, 14)
    """
    return math.floor(Fraction(str(float(share))) * size + Fraction(1, 2))
