"""What evolution costs a training step: time and peak memory, as ratios to the plain step."""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from natsel.common.errors import choose, refuse
from natsel.communities import discover
from natsel.dynamics import DYNAMICS
from natsel.evolution import Evolution
from natsel.models import build
from natsel.study import environment
from natsel.study.training import Progress, silent

EVERY = (1, 5)
"""Steps from one evolution of the masses to the next."""

Step = Callable[[], None]


def make_step(
    *, dynamics: str | None, fused: bool, batch_size: int, every: int = 1, seed: int = 0
) -> tuple[Step, Evolution | None]:
    """Return a function that makes one training step of the 784-512-256-10 network with Adam.

    Args:
        dynamics: the law that evolves beside, or None for the plain step.
        fused: use the fused implementation of Adam.
        batch_size: samples per step, random numbers of the shape of MNIST.
        every: steps from one evolution of the masses to the next.
        seed: of weights and samples.
    """
    model = build("mlp", in_shape=(1, 28, 28), num_classes=10, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(batch_size, 1, 28, 28, generator=generator)
    labels = torch.randint(10, (batch_size,), generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    evolution = None
    if dynamics is not None:
        communities = discover(model, (inputs[:2],))
        evolution = Evolution(communities, dynamics=dynamics, optimizer=optimizer, every=every)

    def step() -> None:
        optimizer.zero_grad()
        loss: Tensor = F.cross_entropy(model(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step, evolution


def time_ratio(
    plain: Step, evolving: Step, *, repeats: int, block: int = 5, warm_up: int = 520
) -> dict[str, float]:
    """Time two steps in turn, block by block; return the ratio of each pair of blocks.

    Args:
        plain: the step to compare with.
        evolving: the step to measure.
        repeats: how many pairs of blocks.
        block: steps in a block.
        warm_up: steps of each before anything is timed.

    Returns:
        The median of the pairwise ratios, its quartiles, and both medians in milliseconds.
    """
    # A run records its masses at every step at first, and thins out later: measure it later.
    for step in (plain, evolving):
        for _ in range(warm_up):
            step()
    pairs = np.empty((repeats, 2))
    for row in range(repeats):
        for column in (0, 1) if row % 2 == 0 else (1, 0):
            start = time.perf_counter()
            for _ in range(block):
                (plain, evolving)[column]()
            pairs[row, column] = (time.perf_counter() - start) / block
    ratios = pairs[:, 1] / pairs[:, 0]
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    plain_ms, evolving_ms = np.median(pairs, axis=0) * 1e3
    return {
        "ratio": float(middle),
        "quartile_low": float(low),
        "quartile_high": float(high),
        "plain_ms": float(plain_ms),
        "evolving_ms": float(evolving_ms),
    }


def peak_memory(step: Step) -> int:
    """Return the peak of what torch has allocated during one step, in bytes.

    Everything that lives between steps (parameters, gradients, optimizer state, masses) is added
    to what the step allocates on top, as the allocator reports it.
    """
    step()
    with tempfile.TemporaryDirectory() as folder, _quiet_profiler():
        path = Path(folder) / "trace.json"
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            step()
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    totals = [e["args"]["Total Allocated"] for e in events if e.get("name") == "[memory]"]
    return int(max(totals) - min(totals[0], totals[-1])) if totals else 0


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Keep the profiler's own log, which it writes past Python, off the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def resident(step: Step) -> int:
    """Return the bytes of all tensors that a step function keeps alive between steps."""
    seen: dict[int, int] = {}
    stack: list[Any] = [cell.cell_contents for cell in step.__closure__ or ()]
    visited: set[int] = set()
    while stack:
        item = stack.pop()
        if id(item) in visited:
            continue
        visited.add(id(item))
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            if item.grad is not None:
                stack.append(item.grad)
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list | tuple | set):
            stack.extend(item)
        elif isinstance(item, MethodType):  # a hook of the optimizer: the evolution behind it
            stack.append(item.__self__)
        elif isinstance(item, torch.nn.Module | torch.optim.Optimizer) or type(
            item
        ).__module__.startswith("natsel"):
            stack.extend(vars(item).values())
    return sum(seen.values())


def bench_step(
    *,
    dynamics: str = "logistic",
    batch_size: int = 128,
    repeats: int = 60,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure a training step with evolution against the same step without, in one process.

    Args:
        dynamics: a registered law, or "all".
        batch_size: samples per step.
        repeats: how many pairs of blocks of 5 steps.
        progress: called between measurements.

    Returns:
        One row per law, optimizer and number of steps between two evolutions, with the hardware
        and versions.

    Raises:
        ValueError: if an argument is not allowed.
    """
    choose("dynamics", dynamics, [*DYNAMICS, "all"])
    for name, value in (("batch_size", batch_size), ("repeats", repeats)):
        if not isinstance(value, int) or value < 1:
            refuse(name, value, "a whole number >= 1")
    laws = list(DYNAMICS) if dynamics == "all" else [dynamics]
    rows: list[dict[str, Any]] = []
    cases = list(itertools.product(laws, (False, True), EVERY))
    for law, fused, every in cases:
        progress("bench step", len(rows), len(cases))
        plain, _ = make_step(dynamics=None, fused=fused, batch_size=batch_size)
        evolving, evolution = make_step(
            dynamics=law, fused=fused, batch_size=batch_size, every=every
        )
        optimizer = "Adam, fused" if fused else "Adam"
        row: dict[str, Any] = {"dynamics": law, "optimizer": optimizer, "every": every}
        row |= time_ratio(plain, evolving, repeats=repeats)
        memory = [resident(s) + peak_memory(s) for s in (plain, evolving)]
        row["memory_ratio"] = memory[1] / memory[0]
        row["plain_bytes"], row["evolving_bytes"] = memory
        row["num_steps"] = evolution.num_steps if evolution is not None else 0
        rows.append(row)
    progress("bench step", len(cases), len(cases))
    return {
        "bench": "step",
        "network": "784-512-256-10",
        "batch_size": batch_size,
        "rows": rows,
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }
