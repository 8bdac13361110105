"""Products of groups that torch does not have in float64, or only slowly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_GROUPS = 32
MAX_PLACES = 32
"""In float64 torch convolves one group after the other, which for few places is all that it does:
thousands of groups of nine numbers take ten times what one product of them takes."""


def grouped_mm(
    first: Tensor, second: Tensor, offs: Tensor | None = None, bias: Any = None, **_: Any
) -> Tensor:
    """Multiply the rows of each group with the matrix of the group; torch's has no float64."""
    if first.dim() == 3 and second.dim() == 3:
        found = torch.bmm(first, second)
    else:
        assert offs is not None
        assert first.dim() == 2
        assert second.dim() == 3
        found = first.new_zeros(first.shape[0], second.shape[2])
        start = 0
        for number, stop in enumerate(offs.tolist()):
            found[start:stop] = first[start:stop] @ second[number]
            start = stop
    return found if bias is None else found + bias


def convolved(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve pictures; many groups over few places in one product.

    Example:
        >>> x, weight = torch.randn(2, 64, 4, 4).double(), torch.randn(64, 1, 3, 3).double()
        >>> found = convolved(x, weight, None, 1, 1, 1, 64)
        >>> bool(torch.allclose(found, F.conv2d(x, weight, None, 1, 1, 1, 64), rtol=1e-12))
        True
    """
    if groups < MIN_GROUPS or isinstance(padding, str) or input.dim() != 4:
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    steps, around, apart = (_pair(x) for x in (stride, padding, dilation))
    high, wide = (
        (input.shape[axis + 2] + 2 * around[axis] - apart[axis] * (weight.shape[axis + 2] - 1) - 1)
        // steps[axis]
        + 1
        for axis in (0, 1)
    )
    if not 0 < high * wide <= MAX_PLACES or input.dtype != weight.dtype:
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    num, out = input.shape[0], weight.shape[0]
    read = F.unfold(input, weight.shape[2:], apart, around, steps)
    read = read.reshape(num, groups, -1, high * wide)
    found = (weight.reshape(groups, out // groups, -1) @ read).reshape(num, out, high, wide)
    return found if bias is None else found + bias.reshape(-1, 1, 1)


def _pair(value: Any) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])


GROUPED: dict[Any, Callable[..., Tensor]] = {
    torch.conv2d: convolved,
    **{
        product: grouped_mm
        for product in (getattr(torch, "_grouped_mm", None), getattr(F, "grouped_mm", None))
        if product is not None
    },
}
"""What takes the place of operators, by operator."""
