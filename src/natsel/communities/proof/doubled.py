"""Run any model in float64, whatever its precision and whatever casts its forward names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from natsel.communities.proof.grouped import GROUPED

MAX_CHUNK = 1 << 21
"""Elements of a weight that are held in float64 at a time where its rows can take turns."""

CASTS = {Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.double}
COMPLEX = {torch.complex32: torch.complex128, torch.complex64: torch.complex128}
DTYPE: Any = Tensor.dtype.__get__  # type: ignore[attr-defined]
WRITES: Any = Tensor.data.__set__  # type: ignore[attr-defined]


class Doubled(TorchFunctionMode):
    """Computes in float64: each operator reads its tensors in float64, and casts name no other.

    Parameters stay as they are and may be those of another model: what is held in float64 is what
    one operator reads, and of a wide linear map some rows at a time. ``x.float()``,
    ``x.to(torch.float16)``, ``softmax(x, dtype=torch.float32)`` and the like give float64, and a
    tensor that is asked for its type says float64.

    Example:
        >>> layer = torch.nn.Linear(2, 3, dtype=torch.bfloat16)
        >>> with in_float64():
        ...     layer(torch.ones(1, 2).half()).float().dtype
        torch.float64
        >>> layer.weight.dtype
        torch.bfloat16
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            found = func(*args)
            return _type(found) if func == DTYPE else found
        if func == WRITES:
            raise RuntimeError("forward replaces the data of a tensor")
        if func in CASTS:
            return args[0].to(torch.float64)
        if func is F.embedding:
            return _double(func(*args, **kwargs))
        if func is F.linear:
            return _linear(*map(_wide, args), **{k: _wide(v) for k, v in kwargs.items()})
        # What is written to stays the tensor that it is.
        kept = 1 if _is_in_place(name) else 0
        args = (*args[:kept], *(_all_lifted(x) for x in args[kept:]))
        kwargs = {key: _all_lifted(x) for key, x in kwargs.items()}
        return GROUPED.get(func, func)(*args, **kwargs)


@contextmanager
def in_float64() -> Iterator[None]:
    """Compute in float64 for a while, and without gradients."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), Doubled():
            yield
    finally:
        torch.set_default_dtype(default)


def _is_in_place(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"


def _type(dtype: Any) -> Any:
    if not isinstance(dtype, torch.dtype):
        return dtype
    return torch.float64 if dtype.is_floating_point else COMPLEX.get(dtype, dtype)


def _double(x: Any) -> Any:
    wanted = _type(x.dtype)
    return x if x.dtype == wanted else x.to(wanted)


def _lifted(value: Any) -> Any:
    """Return a tensor, a type or the name of one in float64; anything else as it is."""
    if isinstance(value, Tensor):
        return _double(value)
    if isinstance(value, torch.dtype):
        return _type(value)
    if isinstance(value, str) and value.startswith("torch.") and value.endswith("Tensor"):
        names = ("HalfTensor", "FloatTensor", "BFloat16Tensor")
        return "torch.DoubleTensor" if value.endswith(names) else value
    return value


def _all_lifted(value: Any) -> Any:
    """The same of what a value holds."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([_all_lifted(x) for x in value])
    return tree_map(_lifted, value) if isinstance(value, (tuple, list, dict)) else _lifted(value)


def _wide(value: Any) -> Any:
    """The same, but a large matrix stays as it is: its rows take turns."""
    if isinstance(value, Tensor) and value.dim() == 2 and value.numel() > MAX_CHUNK:
        return value
    return _lifted(value)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    input = _double(input)
    if weight.dim() < 2 or weight.dtype == torch.float64 or weight.numel() <= MAX_CHUNK:
        return F.linear(input, _double(weight), bias)
    rows = max(MAX_CHUNK // weight.shape[1], 1)
    found = torch.cat([F.linear(input, _double(part)) for part in torch.split(weight, rows)], -1)
    return found if bias is None else found + bias
