"""Order-preserving keys: floating-point scores as whole numbers that compare the same way.

The bits of a float that is not negative, read as a whole number, rise with its value; those of a
negative one fall. So a sign-magnitude pattern is turned into two's complement, and everything that
follows works on whole numbers: exact, with ties that are ties.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class KeyType(NamedTuple):
    """How scores of one type are read as whole numbers.

    Attributes:
        score: the type of the scores.
        whole: the torch type of the keys.
        array: the numpy type of the keys.
        magnitude: all bits but the sign.
        infinity: the key of infinity: finite scores lie strictly between minus this and this.
    """

    score: torch.dtype
    whole: torch.dtype
    array: type[np.signedinteger]
    magnitude: int
    infinity: int


KEY_TYPES: dict[torch.dtype, KeyType] = {
    torch.bfloat16: KeyType(torch.bfloat16, torch.int16, np.int16, 0x7FFF, 0x7F80),
    torch.float16: KeyType(torch.float16, torch.int16, np.int16, 0x7FFF, 0x7C00),
    torch.float32: KeyType(torch.float32, torch.int32, np.int32, 0x7FFFFFFF, 0x7F800000),
    torch.float64: KeyType(
        torch.float64, torch.int64, np.int64, 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000
    ),
}


def ordered(scores: Tensor, kind: KeyType) -> Tensor:
    """Return keys that order scores as their values do; both zeros get one key.

    Args:
        scores: of type ``kind.score``, any shape, contiguous.

    Returns:
        Whole numbers of the same shape.

    Example:
        >>> ordered(torch.tensor([-2.0, -0.0, 0.0, 1.5]), KEY_TYPES[torch.float32]).tolist()
        [-1073741824, 0, 0, 1069547520]
    """
    bits = scores.view(kind.whole)
    size = bits & kind.magnitude
    return torch.where(bits < 0, -size, size)
