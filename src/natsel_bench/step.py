"""What evolution costs a training step: time and peak memory, as ratios to the plain step."""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from natsel.common.errors import choose
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.common.timing import quartiles, take_turns
from natsel.communities import discover
from natsel.dynamics import DYNAMICS
from natsel.evolution import Evolution
from natsel.models import build
from natsel.runs import environment

EVERY = (1, 5, 10)
"""Steps from one evolution of the masses to the next."""

BLOCK = max(EVERY)
"""Steps that are timed together: every law evolves in every block."""

Step = Callable[[], None]


class Network(NamedTuple):
    """What is trained, on random numbers of the shape of a data set.

    Attributes:
        label: in words.
        name: of the registered model.
        in_shape: of one sample.
        arguments: of the model.
        batch_size: samples per step, unless the user says otherwise.
    """

    label: str
    name: str
    in_shape: tuple[int, ...]
    arguments: dict[str, Any]
    batch_size: int


NETWORKS = {
    "mlp": Network("784-512-256-10", "mlp", (1, 28, 28), {}, 128),
    "vit": Network(
        "ViT of width 64, depth 4, 4 heads, 17 tokens",
        "vit",
        (3, 32, 32),
        {"dim": 64, "depth": 4, "heads": 4, "patch": 8},
        32,
    ),
}


class Training:
    """One training step with Adam, with or without evolution, each time it is called.

    Args:
        network: a key of ``NETWORKS``.
        dynamics: the law that evolves beside, or None for the plain step.
        fused: use the fused implementation of Adam.
        compiled: run the model compiled.
        batch_size: samples per step; None for the network's own.
        every: steps from one evolution of the masses to the next.
        seed: of weights and samples.
    """

    def __init__(
        self,
        network: str = "mlp",
        *,
        dynamics: str | None,
        fused: bool = False,
        compiled: bool = False,
        batch_size: int | None = None,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        _, name, in_shape, arguments, usual = NETWORKS[network]
        model = build(name, in_shape=in_shape, num_classes=10, seed=seed, **arguments)
        generator = torch.Generator().manual_seed(seed)
        batch_size = batch_size or usual
        self.inputs = torch.randn(batch_size, *in_shape, generator=generator)
        self.labels = torch.randint(10, (batch_size,), generator=generator)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
        self.evolution: Evolution | None = None
        if dynamics is not None:
            communities = discover(model, (self.inputs[:2],))
            self.evolution = Evolution(
                communities, dynamics=dynamics, optimizer=self.optimizer, every=every
            )
        self.model: Any = torch.compile(model) if compiled else model
        self.num_steps = 0

    def __call__(self) -> None:
        """Make one step."""
        self.optimizer.zero_grad()
        loss: Tensor = F.cross_entropy(self.model(self.inputs), self.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.num_steps += 1


def check(plain: Training, evolving: Training) -> None:
    """Assert that two trainings did what their times are compared for."""
    evolution = evolving.evolution
    assert evolution is not None, "nothing evolved"
    assert plain.num_steps == evolving.num_steps == evolution.num_steps, "steps differ"
    masses = torch.cat(list(evolution.masses.values()))
    assert bool(((masses >= 0) & (masses <= 1)).all()), "a mass is outside [0, 1]"
    assert bool((masses != masses[0]).any()), "no mass moved"
    for training in (plain, evolving):
        for parameter in training.model.parameters():
            assert bool(torch.isfinite(parameter).all()), "a weight is not finite"


def time_ratios(
    plain: Step, others: Sequence[Step], *, repeats: int, block: int = BLOCK, warm_up: int = 520
) -> list[dict[str, float]]:
    """Time steps in turn, block by block; return the ratios of blocks to those of the plain step.

    Processor time of this process, so that what else the machine does matters less.

    Args:
        plain: the step to compare with.
        others: the steps to measure.
        repeats: how many blocks of each.
        block: steps in a block.
        warm_up: steps of each before anything is timed.

    Returns:
        For each of the others the median of the ratios, its quartiles, and both medians in
        milliseconds.
    """
    # A run records its masses at every step at first, and thins out later: measure it later.
    times = take_turns((plain, *others), repeats=repeats, block=block, warm_up=warm_up)
    medians = np.median(times, axis=0) * 1e3
    return [
        quartiles(times[:, column] / times[:, 0])
        | {"plain_ms": float(medians[0]), "evolving_ms": float(medians[column])}
        for column in range(1, times.shape[1])
    ]


def why_not_compiled() -> str | None:
    """Say why torch cannot compile here, in one line; None if it can."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8))
    except (RuntimeError, OSError, ImportError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"torch.compile does not work here, so nothing was compiled: {lines[0]}"
    return None


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


def resident(step: Training) -> int:
    """Return the bytes of all tensors that a training keeps alive between steps."""
    seen: dict[int, int] = {}
    stack: list[Any] = [step]
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
    network: str = "mlp",
    compiled: bool = False,
    batch_size: int | None = None,
    repeats: int = 30,
    quick: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure a training step with evolution against the same step without, in one process.

    Args:
        dynamics: a registered law, or "all".
        network: a key of ``NETWORKS``, or "all".
        compiled: measure the compiled model too.
        batch_size: samples per step; None for each network's own.
        repeats: how many blocks of 10 steps of each.
        quick: three steps: enough to see that it works, not to time it.
        progress: called between measurements.

    Returns:
        One row per network, law, optimizer and number of steps between two evolutions, eager and
        compiled, with the hardware and versions; under "compile_error" why nothing was compiled.

    Raises:
        ValueError: if an argument is not allowed.
        AssertionError: if a training did not do what is timed.
    """
    choose("dynamics", dynamics, [*DYNAMICS, "all"])
    choose("network", network, [*NETWORKS, "all"])
    for name, value in (("batch_size", batch_size), ("repeats", repeats)):
        if value is not None:
            check_whole(name, value)
    laws = list(DYNAMICS) if dynamics == "all" else [dynamics]
    networks = list(NETWORKS) if network == "all" else [network]
    error = why_not_compiled() if compiled else None
    modes = (False, True) if compiled and error is None else (False,)
    sizes = {n: batch_size or NETWORKS[n].batch_size for n in networks}
    rows: list[dict[str, Any]] = []
    cases = list(itertools.product(networks, laws, modes, (False, True)))
    for number, (net, law, compiles, fused) in enumerate(cases):
        progress("bench step", number, len(cases))
        rows += _rows(
            net,
            law,
            compiles,
            fused,
            batch_size=sizes[net],
            **({"repeats": 2, "block": 1, "warm_up": 1} if quick else {"repeats": repeats}),
        )
    progress("bench step", len(cases), len(cases))
    return {
        "bench": "step",
        "network": ", ".join(NETWORKS[n].label for n in networks),
        "batch_size": sizes[networks[0]] if len(networks) == 1 else sizes,
        "rows": rows,
        "quick": quick,
        "compile_error": error,
        **environment.record(),
    }


def _rows(
    network: str,
    law: str,
    compiled: bool,
    fused: bool,
    *,
    batch_size: int,
    **timing: int,
) -> list[dict[str, Any]]:
    """Measure one case: a row for each number of steps between two evolutions."""
    if compiled:
        torch._dynamo.reset()  # it compiles one function for a few models only
    options: dict[str, Any] = {"fused": fused, "compiled": compiled, "batch_size": batch_size}
    plain = Training(network, dynamics=None, **options)
    evolving = [Training(network, dynamics=law, every=every, **options) for every in EVERY]
    times = time_ratios(plain, evolving, **timing)
    plain_bytes = resident(plain) + peak_memory(plain)
    rows = []
    for every, training, found in zip(EVERY, evolving, times, strict=True):
        evolving_bytes = resident(training) + peak_memory(training)
        check(plain, training)
        rows.append(
            {
                "network": network,
                "batch_size": batch_size,
                "dynamics": law,
                "optimizer": "Adam, fused" if fused else "Adam",
                "compiled": compiled,
                "every": every,
                **found,
                "memory_ratio": evolving_bytes / plain_bytes,
                "plain_bytes": plain_bytes,
                "evolving_bytes": evolving_bytes,
                "num_steps": training.num_steps,
            }
        )
    return rows
