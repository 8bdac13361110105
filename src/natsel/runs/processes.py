"""Cells in processes of this machine."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from natsel.common.progress import Progress, silent
from natsel.common.timing import one_thread
from natsel.runs.cells import Failure, Task, run_cell

_PROGRESS: ContextVar[Progress] = ContextVar("progress", default=silent)


def progress_of_cell() -> Progress:
    """Return what a cell says how far it is: shown where it runs in the user's own process."""
    return _PROGRESS.get()


@contextmanager
def telling(progress: Progress) -> Iterator[None]:
    """Let cells that run in this process say how far they are."""
    before = _PROGRESS.set(progress)
    try:
        yield
    finally:
        _PROGRESS.reset(before)


def in_processes(tasks: Sequence[Task], workers: int) -> Generator[Failure | None, None, None]:
    """Run cells, each with one thread; yield after each None, or how it failed.

    Raises:
        RuntimeError: if a worker was killed; what is finished stays.
    """
    return _in_turn(tasks) if workers == 1 else _side_by_side(tasks, workers)


def _in_turn(tasks: Sequence[Task]) -> Generator[Failure | None, None, None]:
    """Run cells in this process, which is one worker."""
    # What was there before is no garbage of a cell: looking through it would take a second each.
    gc.freeze()
    try:
        with one_thread():
            for task in tasks:
                yield run_cell(task)
    finally:
        gc.unfreeze()


def _side_by_side(tasks: Sequence[Task], workers: int) -> Generator[Failure | None, None, None]:
    """Run cells in processes of their own; whatever ends the run ends them too."""
    if not tasks:
        return
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        min(workers, len(tasks)), multiprocessing.get_context("spawn"), _start_worker
    ) as pool:
        try:
            for finished in as_completed([pool.submit(run_cell, task) for task in tasks]):
                yield finished.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise RuntimeError(
                    "a worker process was killed (out of memory?): what is finished is kept; go "
                    "on with --resume, or with fewer workers"
                ) from None
            raise


def _start_worker() -> None:
    # Ctrl-C reaches every process of a terminal: one message, from the parent, is enough.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
