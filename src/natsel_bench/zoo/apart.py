"""A process for each model: it may hang, crash or eat the memory, and only its row tells."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch

from natsel.common.errors import first_line
from natsel.common.files import read_json, write_json
from natsel_bench.zoo.trial import load_here, quietly, run_here

GIGABYTE = 1 << 30
HERE = "natsel_bench.zoo.warm"
WALL = 10.0
"""How many times its limit a model may take on the clock: on a busy machine."""

Row = dict[str, Any]
Work = Callable[[str, int, Path], Row]


def processes() -> BaseContext:
    """Return what starts processes: each a copy of one that has imported the libraries already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([HERE])
    return context


def run_apart(
    context: BaseContext,
    name: str,
    *,
    seed: int,
    limit: float,
    memory: float,
    work: Work = run_here,
) -> Row:
    """Try one model in a process of its own, and load what it saved in another one.

    Args:
        context: from :func:`processes`.
        name: of the catalogue.
        seed: of everything random.
        limit: seconds of processor time; ten times as many on the clock.
        memory: gigabytes that its process may take.
        work: what is tried.

    Returns:
        The row, with ``seconds``; its ``outcome`` is "time-out", "memory" or "error" where the
        process did not come to its end.
    """
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        row = _one(context, work, name, seed, folder, limit, memory)
        if row.get("load", "") is None:
            row |= _one(context, load_here, name, seed, folder, limit, memory, whole=False)
    return {"model": name, "seed": seed} | row


def _one(
    context: BaseContext,
    work: Work,
    name: str,
    seed: int,
    folder: Path,
    limit: float,
    memory: float,
    *,
    whole: bool = True,
) -> Row:
    out = folder / f"{work.__name__}.json"
    args = (work, name, seed, folder, out, limit, memory)
    process = context.Process(target=_run, args=args)  # type: ignore[attr-defined]
    process.start()
    process.join(WALL * limit)
    hung = process.exitcode is None
    if hung:
        process.kill()
        process.join()
    if out.is_file():
        row: Row = read_json(out)
        return row
    code = process.exitcode
    if hung or code == -signal.SIGXCPU:
        outcome, reason = "time-out", f"killed after {limit:g} s"
    elif code == -signal.SIGKILL:  # by the system, which had no memory left
        outcome, reason = "memory", f"it needs more than {memory:g} GB"
    else:
        outcome, reason = "error", f"its process ended with {code}"
    return {"outcome": outcome, "reason": reason} if whole else {"load": reason}


def _run(
    work: Work, name: str, seed: int, folder: Path, out: Path, limit: float, memory: float
) -> None:
    torch.set_num_threads(1)
    quietly()
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 2))
    size = int(memory * GIGABYTE)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    begun = time.process_time()
    with contextlib.redirect_stdout(sys.stderr):
        try:
            row = work(name, seed, folder)
        except Exception as error:  # noqa: BLE001 - what went wrong is what the row says
            row = _failed(error, memory)
    write_json(
        out, row | ({"seconds": time.process_time() - begun} if work is not load_here else {})
    )


def _failed(error: Exception, memory: float) -> Row:
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return {"outcome": "memory", "reason": f"it needs more than {memory:g} GB"}
    return {"outcome": "error", "reason": f"{type(error).__name__}: {first_line(error)[:300]}"}
