"""Ways to select among very many weights: natsel's, and what one would write instead."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from natsel.common.extras import require
from natsel.selection import NM, Blocks, Sparsity, Weights, select, zero_

TENSORS = 50
COLUMNS = 1000
SHARE = 0.7

Tensors = Mapping[str, Tensor]
Masks = Mapping[str, Tensor]
TOGETHER: dict[str, Any] = {"scope": "global", "normalize": None}


def make_weights(size: int, dtype: torch.dtype, *, seed: int = 0) -> dict[str, Tensor]:
    """Return normal weights in about 50 tensors of different scales.

    Args:
        size: how many weights, about.
        dtype: of the weights.
        seed: of the generator.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = max(4, size // (TENSORS * COLUMNS) // 4 * 4)
    tensors = {}
    for number in range(TENSORS):
        weight = torch.empty(rows, COLUMNS, dtype=dtype)
        for first in range(0, rows, 1000):
            part = weight[first : first + 1000]
            scale = 1 + number / TENSORS
            part.copy_(torch.randn(part.shape, generator=generator).mul_(scale))
        tensors[f"layer{number}"] = weight
    return tensors


def reading_pass() -> tuple[str, Callable[[Tensors], object]]:
    """Return the pass that everything is compared with, and its name: it reads every weight once.

    A compiled loop that sums magnitudes where numba is there, else an inner product of numpy.
    """
    if importlib.util.find_spec("numba") is None:

        def dot(tensors: Tensors) -> float:
            return sum(float(np.dot(v, v)) for v in map(_floats, tensors.values()))

        return "numpy.dot", dot
    numba: Any = require("numba", "bench")

    @numba.njit(fastmath=True)  # type: ignore[untyped-decorator]
    def magnitudes(values: Any) -> Any:
        total = np.float32(0)
        for place in range(values.size):  # iterating over values does not vectorise
            total += abs(values[place])
        return total

    @numba.njit  # type: ignore[untyped-decorator]
    def patterns(values: Any) -> Any:
        total = 0
        for place in range(values.size):
            total += values[place] & 0x7FFF
        return total

    def sums(tensors: Tensors) -> float:
        total = 0.0
        for weight in tensors.values():
            if weight.dtype == torch.float32:
                total += float(magnitudes(_floats(weight)))
            else:
                total += float(patterns(_memory(weight)))
        return total

    return "numba, sum of magnitudes", sums


def words_pass() -> Callable[[Tensors], object] | None:
    """Return a pass that reads the weights' memory as 32-bit words; None without numba.

    It does less than any pass over the weights themselves and takes what the memory takes.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    numba: Any = require("numba", "bench")

    @numba.njit  # type: ignore[untyped-decorator]
    def added(words: Any) -> Any:
        total = numba.int32(0)
        for place in range(words.size):
            total = numba.int32(total + words[place])
        return total

    def read(tensors: Tensors) -> int:
        return sum(int(added(_memory(w).view(np.int32))) for w in tensors.values())

    return read


def _memory(weight: Tensor) -> np.ndarray:
    """Return the memory of weights as whole numbers, flat."""
    bits = weight.view(-1).view(torch.int16 if weight.element_size() == 2 else torch.int32)
    found: np.ndarray = bits.numpy()
    return found


def _floats(weight: Tensor) -> np.ndarray:
    """Return the memory of weights as float32 numbers, whatever they are: only reading counts."""
    return _memory(weight).view(np.float32)


def global_unstructured(tensors: Tensors) -> Masks:
    """Prune by ``torch.nn.utils.prune.global_unstructured``."""
    layers = {name: nn.Module() for name in tensors}
    for name, layer in layers.items():
        layer.weight = nn.Parameter(tensors[name], requires_grad=False)
    pairs = [(layer, "weight") for layer in layers.values()]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=SHARE)
    return {name: layer.get_buffer("weight_mask").bool() for name, layer in layers.items()}


def cat_topk(tensors: Tensors) -> Masks:
    """Concatenate, take the largest by ``torch.topk``, scatter."""
    flat = torch.cat([w.abs().view(-1) for w in tensors.values()])
    kept = torch.topk(flat, len(flat) - Sparsity(SHARE).count(len(flat)), sorted=False).indices
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[kept] = True
    return split(mask, tensors)


def cat_kthvalue(tensors: Tensors) -> Masks:
    """Concatenate, find the threshold by ``torch.kthvalue``, compare: misses the count by ties."""
    flat = torch.cat([w.abs().view(-1) for w in tensors.values()])
    threshold = flat.kthvalue(max(1, Sparsity(SHARE).count(len(flat)))).values
    return {name: weight.abs() > threshold for name, weight in tensors.items()}


def split(mask: Tensor, tensors: Tensors) -> Masks:
    parts = torch.split(mask, [w.numel() for w in tensors.values()])
    return {n: p.view(w.shape) for (n, w), p in zip(tensors.items(), parts, strict=True)}


PEERS: dict[str, Callable[[Tensors], Masks]] = {
    "torch.nn.utils.prune.global_unstructured": global_unstructured,
    "torch.cat + topk": cat_topk,
    "torch.cat + kthvalue": cat_kthvalue,
}


def ways(engine: str) -> dict[str, Callable[[Tensors], Masks]]:
    """Return what natsel does, by name."""

    def weights(tensors: Tensors) -> Weights:
        return Weights(tensors, engine=engine)

    def zeroed(made: Weights) -> Masks:
        found = select(made, share, **TOGETHER)
        zero_(made, found)
        return found

    share = Sparsity(SHARE)
    blocks: dict[str, Any] = {"floor": 0, **TOGETHER}
    return {
        f"natsel, {engine}": lambda t: select(weights(t), share, **TOGETHER),
        f"natsel, {engine}, bits": lambda t: select(weights(t), share, packed=True, **TOGETHER),
        f"natsel, {engine}, zeroed": lambda t: zeroed(weights(t)),
        f"natsel, {engine}, per tensor": lambda t: select(weights(t), share),
        f"natsel, {engine}, 2:4": lambda t: select(weights(t), NM(2, 4)),
        f"natsel, {engine}, 4:8": lambda t: select(weights(t), NM(4, 8)),
        f"natsel, {engine}, 4x4 blocks": lambda t: select(weights(t), Blocks(SHARE), **blocks),
        f"natsel, {engine}, 1x8 blocks": lambda t: select(
            weights(t), Blocks(SHARE, (1, 8)), **blocks
        ),
    }
