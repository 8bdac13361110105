"""Many independent trainings: cached one by one, side by side on the cores, resumable."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import torch

from natsel.common.errors import NonFiniteError
from natsel.common.files import sweep, write_json
from natsel.common.json_data import read_object
from natsel.common.logs import logger_of
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress
from natsel.common.timing import one_thread

_LOG = logger_of(__name__)

Work: TypeAlias = Callable[[Any], dict[str, Any]]
Task: TypeAlias = tuple[Work, Any, str]


def path_of(folder: Path, job: Any) -> Path:
    """Return where a job's result is cached: named for what it is and a hash of all of it."""
    text = json.dumps(asdict(job), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return folder / f"{job.label.replace(' ', '-')}-{digest}.json"


def run_jobs(
    work: Work,
    jobs: Sequence[Any],
    folder: Path,
    *,
    workers: int,
    progress: Progress,
    label: str,
) -> list[dict[str, Any]]:
    """Run jobs that are not cached yet, several at a time, and return all results in order.

    Every worker computes with one thread, so a result does not depend on how many there are.

    Args:
        work: a module-level function from a job to its result (plain JSON data).
        jobs: what to run: frozen dataclasses of plain values, each with a ``label``, which is
            what to call it in messages.
        folder: where results are cached.
        workers: processes side by side; a single one is this process.
        progress: called after every job.
        label: what ``progress`` is told.

    Returns:
        One result per job.

    Raises:
        ValueError: if ``workers`` is not allowed or a cached result is damaged.
        RuntimeError: if a worker was killed; what is finished stays cached.
    """
    check_whole("workers", workers)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    tasks = [(work, job, str(path_of(folder, job))) for job in jobs]
    missing = [task for task in tasks if not Path(task[2]).is_file()]
    for _, _, path in tasks:
        if Path(path).is_file():
            read_object(path)  # what is damaged is told before the work
    done = len(jobs) - len(missing)
    if done:
        _LOG.info("%s: %d of %d are cached", label, done, len(jobs))
    progress(label, done, len(jobs))
    run = _in_turn if workers == 1 else _side_by_side
    try:
        with closing(run(missing, workers)) as finished:
            for _ in finished:
                done += 1
                progress(label, done, len(jobs))
    finally:
        sweep(folder)
    return [read_object(path_of(folder, job)) for job in jobs]


def default_workers() -> int:
    """Return one process per core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def _in_turn(tasks: Sequence[Task], workers: int) -> Generator[None, None, None]:
    """Run tasks in this process, which is one worker."""
    with one_thread():
        for task in tasks:
            _run_one(task)
            yield


def _side_by_side(tasks: Sequence[Task], workers: int) -> Generator[None, None, None]:
    """Run tasks in processes of their own; whatever ends the run ends them too."""
    if not tasks:
        return
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        min(workers, len(tasks)), multiprocessing.get_context("spawn"), _start_worker
    ) as pool:
        try:
            for finished in as_completed([pool.submit(_run_one, task) for task in tasks]):
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


def _run_one(task: Task) -> None:
    work, job, path = task
    try:
        result = work(job)
    except NonFiniteError as error:
        raise NonFiniteError(f"{job.label}: {error}") from error
    # A model in a cycle keeps its data set alive, which the collector counts as a few objects.
    gc.collect()
    write_json(path, result)
