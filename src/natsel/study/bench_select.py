"""What selecting among very many weights costs, in passes that read them, beside other ways."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from natsel.common.errors import choose, refuse
from natsel.common.extras import require
from natsel.selection import NM, Blocks, Sparsity, Weights, select
from natsel.study import environment
from natsel.study.training import Progress, silent

TENSORS = 50
COLUMNS = 1000
SHARE = 0.7
SIZES = (10**6, 10**7, 10**8)
HUGE = 10**9
"""In bfloat16 only: two gigabytes."""
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SLOW_AT = 10**8
"""Weights from which on other ways are run once: they take minutes and gigabytes."""

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
            return sum(float(np.dot(v, v)) for v in map(_as_float32, tensors.values()))

        return "numpy.dot", dot
    numba: Any = require("numba", "bench")

    @numba.njit(fastmath=True)  # type: ignore[untyped-decorator]
    def magnitudes(values: Any) -> Any:
        total = np.float32(0)
        for value in values:
            total += abs(value)
        return total

    @numba.njit  # type: ignore[untyped-decorator]
    def patterns(values: Any) -> Any:
        total = 0
        for value in values:
            total += value & 0x7FFF
        return total

    def sums(tensors: Tensors) -> float:
        total = 0.0
        for weight in tensors.values():
            if weight.dtype == torch.float32:
                total += float(magnitudes(weight.view(-1).numpy()))
            else:
                total += float(patterns(weight.view(torch.int16).view(-1).numpy()))
        return total

    return "numba, sum of magnitudes", sums


def _as_float32(weight: Tensor) -> np.ndarray:
    """Return the memory of weights as float32 numbers, whatever they are: only reading counts."""
    bits = weight.view(-1).view(torch.int16 if weight.element_size() == 2 else torch.int32)
    found: np.ndarray = bits.numpy().view(np.float32)
    return found


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
    return _split(mask, tensors)


def cat_kthvalue(tensors: Tensors) -> Masks:
    """Concatenate, find the threshold by ``torch.kthvalue``, compare: misses the count by ties."""
    flat = torch.cat([w.abs().view(-1) for w in tensors.values()])
    threshold = flat.kthvalue(max(1, Sparsity(SHARE).count(len(flat)))).values
    return {name: weight.abs() > threshold for name, weight in tensors.items()}


def _split(mask: Tensor, tensors: Tensors) -> Masks:
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

    share = Sparsity(SHARE)
    blocks: dict[str, Any] = {"floor": 0, **TOGETHER}
    return {
        f"natsel, {engine}": lambda t: select(weights(t), share, **TOGETHER),
        f"natsel, {engine}, bits": lambda t: select(weights(t), share, packed=True, **TOGETHER),
        f"natsel, {engine}, zeroed": lambda t: select(weights(t), share, zero=True, **TOGETHER),
        f"natsel, {engine}, per tensor": lambda t: select(weights(t), share),
        f"natsel, {engine}, 2:4": lambda t: select(weights(t), NM(2, 4)),
        f"natsel, {engine}, 4:8": lambda t: select(weights(t), NM(4, 8)),
        f"natsel, {engine}, 4x4 blocks": lambda t: select(weights(t), Blocks(SHARE), **blocks),
        f"natsel, {engine}, 1x8 blocks": lambda t: select(
            weights(t), Blocks(SHARE, (1, 8)), **blocks
        ),
    }


def time_in_turn(
    methods: Mapping[str, Callable[[], object]],
    reference: Callable[[], object],
    *,
    repeats: int,
) -> dict[str, dict[str, float]]:
    """Time methods against a reference that runs right before each; processor time.

    Args:
        methods: what is timed.
        reference: what it is compared with.
        repeats: rounds; in each every method runs once.

    Returns:
        For each method the median ratio, its quartiles, and the median seconds.
    """
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            pairs[name].append((_seconds(reference), _seconds(method)))
    found = {}
    for name, times in pairs.items():
        passes = float(np.median([p for p, _ in times]))
        ratios = np.array([m for _, m in times]) / passes
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        found[name] = {
            "ratio": float(middle),
            "quartile_low": float(low),
            "quartile_high": float(high),
            "seconds": float(np.median([m for _, m in times])),
            "pass_seconds": passes,
            "repeats": repeats,
        }
    return found


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    result = work()
    taken = time.process_time() - started
    del result
    return taken


def extra_bytes(work: Callable[[], object]) -> int | None:
    """Return by how much the process grows while it works, at most; None where it cannot be told.

    The result counts, as long as it is alive. Linux only.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        result = work()
        peak = _status("VmHWM")
        del result
        return max(0, peak - before)
    return None


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    if found is None:
        raise OSError(f"no {field}")
    return int(found[1]) * 1024


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Return the slope of log time over log size, by least squares; 1 is linear.

    Example:
        >>> exponent([1e6, 1e7, 1e8], [0.1, 1.0, 10.0])
        1.0
    """
    if len(sizes) < 2:
        return None
    slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    return round(float(slope), 3)


def bench_select(
    *,
    sizes: Sequence[int] = SIZES,
    dtypes: Sequence[str] = tuple(TYPES),
    repeats: int = 5,
    peers: bool = True,
    huge: bool = False,
    quick: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Time selection among weights by natsel and by what one would write, in reading passes.

    One thread. Every mask of natsel is compared with a stable sort at the smallest size; at every
    size the count is checked.

    Args:
        sizes: how many weights, about.
        dtypes: "float32", "bfloat16".
        repeats: rounds of interleaved runs; from 1e8 weights on other ways run once.
        peers: also run the other ways.
        huge: also 1e9 weights in bfloat16, natsel only: 3 GB.
        quick: 100,000 weights and 2 rounds, to see that everything works.
        progress: called before every size.

    Returns:
        Rows with ratios to the pass, extra bytes per weight, whether the count is exact, and the
        exponent of a fit over sizes for each way and type.

    Raises:
        ValueError: if an argument is not allowed.
    """
    for name in dtypes:
        choose("dtypes", name, TYPES)
    if not isinstance(repeats, int) or repeats < 1:
        refuse("repeats", repeats, "a whole number >= 1")
    for size in sizes:
        if not isinstance(size, int) or not 10**5 <= size <= 10**10:
            refuse("sizes", size, "whole numbers from 1e5 to 1e10")
    if quick:
        sizes, repeats = (10**5,), 2
    engines = ["numpy"] + (["numba"] if importlib.util.find_spec("numba") else [])
    named, read = reading_pass()
    cases = [(size, name) for name in dtypes for size in sizes]
    cases += [(HUGE, "bfloat16")] if huge and not quick else []
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    try:
        for number, (size, name) in enumerate(cases):
            progress("bench select", number, len(cases))
            tensors = make_weights(size, TYPES[name])
            read(tensors)  # compiled
            if number == 0 and size <= 10**6:
                check_exact(tensors, engines)
            methods = {k: f for engine in engines for k, f in ways(engine).items()}
            rows += _rows(tensors, name, methods, read, repeats)
            if peers and size < HUGE:
                few = 1 if size >= SLOW_AT else repeats
                rows += _rows(tensors, name, PEERS, read, few)
    finally:
        torch.set_num_threads(num_threads)
    progress("bench select", len(cases), len(cases))
    return {
        "bench": "select",
        "share": SHARE,
        "tensors": TENSORS,
        "pass": named,
        "rows": rows,
        "exponents": exponents(rows),
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }


def _rows(
    tensors: Tensors,
    dtype: str,
    methods: Mapping[str, Callable[[Tensors], Masks]],
    read: Callable[[Tensors], object],
    repeats: int,
) -> list[dict[str, Any]]:
    size = sum(w.numel() for w in tensors.values())
    given = {name: _copies(tensors) if "zeroed" in name else tensors for name in methods}
    memory: dict[str, int | None] = {}
    exact = {}
    for name, method in methods.items():  # compiled, warm, and with the right count
        memory[name] = extra_bytes(lambda m=method, t=given[name]: m(t))  # type: ignore[misc]
        kept = sum(int(m.count_nonzero()) for m in method(given[name]).values())
        exact[name] = kept == _expected(name, size)
    times = time_in_turn(
        {n: (lambda m=m, t=given[n]: m(t)) for n, m in methods.items()},  # type: ignore[misc]
        lambda: read(tensors),
        repeats=repeats,
    )
    return [
        {
            "method": name,
            "dtype": dtype,
            "size": size,
            **found,
            "bytes_per_weight": None if memory[name] is None else memory[name] / size,  # type: ignore[operator]
            "exact_count": exact[name],
        }
        for name, found in times.items()
    ]


def _copies(tensors: Tensors) -> Tensors:
    return {name: weight.clone() for name, weight in tensors.items()}


def _expected(method: str, size: int) -> int:
    """Return how many weights a method should keep."""
    if ":" in method:
        return size // 2
    per_tensor = "per tensor" in method
    block = 16 if "4x4" in method else 8 if "1x8" in method else 1
    units = (size // TENSORS if per_tensor else size) // block
    kept = (units - Sparsity(SHARE).count(units)) * block
    return kept * TENSORS if per_tensor else kept


def check_exact(tensors: Tensors, engines: Sequence[str]) -> None:
    """Compare masks with a stable sort.

    Raises:
        RuntimeError: if one differs.
    """
    flat = torch.cat([w.abs().view(-1) for w in tensors.values()])
    order = torch.argsort(flat, descending=True, stable=True)
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[order[: len(flat) - Sparsity(SHARE).count(len(flat))]] = True
    expected = _split(mask, tensors)
    for engine in engines:
        for packed in (False, True):
            found = select(
                Weights(tensors, engine=engine), Sparsity(SHARE), packed=packed, **TOGETHER
            )
            if any(not torch.equal(found[n], expected[n]) for n in tensors):
                raise RuntimeError(f"engine {engine!r} does not select what a stable sort selects")


def exponents(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return for each way and type how its time grows with the number of weights."""
    found = {}
    for name, dtype in dict.fromkeys((r["method"], r["dtype"]) for r in rows):
        mine = [r for r in rows if (r["method"], r["dtype"]) == (name, dtype)]
        slope = exponent([r["size"] for r in mine], [r["seconds"] for r in mine])
        if slope is not None and math.isfinite(slope):
            found[f"{name}, {dtype}"] = slope
    return found
