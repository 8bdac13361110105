"""What selecting among very many weights costs, in passes that read them, beside other ways."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from natsel.common.errors import choose, refuse
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.common.timing import one_thread, quartiles, take_turns
from natsel.runs import environment
from natsel.selection import Sparsity, Weights, select
from natsel_bench.ways_to_select import (
    PEERS,
    SHARE,
    TENSORS,
    TOGETHER,
    Masks,
    Tensors,
    make_weights,
    reading_pass,
    split,
    ways,
    words_pass,
)

SIZES = (10**6, 10**7, 10**8)
HUGE = 10**9
"""In bfloat16 only: two gigabytes."""
HUGE_ROUNDS = 3

Result = TypeVar("Result")
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SLOW_AT = 10**8
"""Weights from which on other ways are run once: they take minutes and gigabytes."""


def extra_bytes(work: Callable[[], Result]) -> tuple[int | None, Result]:
    """Return by how much the process grows while it works, at most, and what it returned.

    The result counts. None in place of the number where it cannot be told: Linux only.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        result = work()
        return max(0, _status("VmHWM") - before), result
    except OSError:
        return None, work()


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
    check_whole("repeats", repeats)
    for size in sizes:
        if not isinstance(size, int) or not 10**5 <= size <= 10**10:
            refuse("sizes", size, "whole numbers from 1e5 to 1e10")
    if quick:
        sizes, repeats = (10**5,), 2
    engines = ["numpy"] + (["numba"] if importlib.util.find_spec("numba") else [])
    named, read = reading_pass()
    words = words_pass()
    cases = [(size, name) for name in dtypes for size in sizes]
    cases += [(HUGE, "bfloat16")] if huge and not quick else []
    rows: list[dict[str, Any]] = []
    with one_thread():
        for number, (size, name) in enumerate(cases):
            progress("bench select", number, len(cases))
            tensors = make_weights(size, TYPES[name])
            read(tensors)  # compiled
            if number == 0 and size <= 10**6:
                check_exact(tensors, engines)
            methods = {k: f for engine in engines for k, f in ways(engine).items()}
            rounds = min(repeats, HUGE_ROUNDS) if size >= HUGE else repeats
            rows += _rows(tensors, name, methods, read, rounds)
            if words is not None:
                rows.append(_memory_row(tensors, name, read, words, rounds))
            if peers and size < HUGE:
                few = 1 if size >= SLOW_AT else repeats
                rows += _rows(tensors, name, PEERS, read, few)
    progress("bench select", len(cases), len(cases))
    return {
        "bench": "select",
        "share": SHARE,
        "tensors": TENSORS,
        "pass": named,
        "rows": rows,
        "exponents": exponents(rows),
        **environment.record(),
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
        memory[name], masks = extra_bytes(partial(method, given[name]))
        kept = sum(int(m.count_nonzero()) for m in masks.values())
        exact[name] = kept == _expected(name, size)
        del masks
    steps: list[Callable[[], object]] = [
        partial(read, tensors),
        *(partial(methods[n], given[n]) for n in methods),
    ]
    # What was zeroed is restored: among zeros nothing is left to decide.
    restore = {
        column: partial(_restore, given[name], tensors)
        for column, name in enumerate(methods, start=1)
        if given[name] is not tensors
    }
    times = take_turns(steps, repeats=repeats, prepare=restore)
    return [
        _row(
            name,
            dtype,
            size,
            times[:, [0, column]],
            bytes_per_weight=None if memory[name] is None else memory[name] / size,  # type: ignore[operator]
            exact_count=exact[name],
        )
        for column, name in enumerate(methods, start=1)
    ]


def _row(
    method: str, dtype: str, size: int, times: np.ndarray, **found: float | bool | None
) -> dict[str, Any]:
    """Return a row; the times are those of the pass and of the method, side by side."""
    return {
        "method": method,
        "dtype": dtype,
        "size": size,
        **quartiles(times[:, 1] / times[:, 0]),
        "seconds": float(np.median(times[:, 1])),
        "pass_seconds": float(np.median(times[:, 0])),
        "repeats": len(times),
        **found,
    }


def _memory_row(
    tensors: Tensors,
    dtype: str,
    read: Callable[[Tensors], object],
    words: Callable[[Tensors], object],
    repeats: int,
) -> dict[str, Any]:
    """Return the row of a pass that is bound by memory alone."""
    words(tensors)  # compiled
    times = take_turns([partial(read, tensors), partial(words, tensors)], repeats=repeats)
    size = sum(w.numel() for w in tensors.values())
    method = "reading the same memory as 32-bit words"
    return _row(method, dtype, size, times, bytes_per_weight=0.0, exact_count=None)


def _copies(tensors: Tensors) -> Tensors:
    return {name: weight.clone() for name, weight in tensors.items()}


def _restore(copies: Tensors, tensors: Tensors) -> None:
    for name, weight in tensors.items():
        copies[name].copy_(weight)


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
    expected = split(mask, tensors)
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
