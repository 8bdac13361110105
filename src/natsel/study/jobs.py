"""Many independent trainings: cached one by one, side by side on the cores, resumable."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from natsel.common.files import read_json, write_json
from natsel.study.training import Progress


class Job(Protocol):
    """A frozen dataclass of plain values that describes one training."""

    @property
    def label(self) -> str:
        """What to call it in messages."""
        ...


Work = Callable[[Any], dict[str, Any]]


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
        jobs: what to run.
        folder: where results are cached.
        workers: processes side by side.
        progress: called after every job.
        label: what ``progress`` is told.

    Returns:
        One result per job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if not path_of(folder, job).is_file()]
    done = len(jobs) - len(missing)
    progress(label, done, len(jobs))
    if missing:
        tasks = [(work, job, str(path_of(folder, job))) for job in missing]
        context = multiprocessing.get_context("spawn")
        with context.Pool(min(workers, len(missing)), initializer=_one_thread) as pool:
            for _ in pool.imap_unordered(_run_one, tasks, chunksize=1):
                done += 1
                progress(label, done, len(jobs))
    results: list[dict[str, Any]] = [read_json(path_of(folder, job)) for job in jobs]
    return results


def default_workers() -> int:
    """Return one process per core."""
    return max(1, os.cpu_count() or 1)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _run_one(task: tuple[Work, Any, str]) -> None:
    work, job, path = task
    write_json(path, work(job))
