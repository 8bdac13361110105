"""Many independent cells: kept one by one, run wherever there is room, resumable."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from natsel.common.errors import refuse
from natsel.common.files import sweep
from natsel.common.json_data import read_object
from natsel.common.logs import logger_of
from natsel.common.progress import Progress
from natsel.runs.cells import Failure, Needs, Task, Work, listed, path_of
from natsel.runs.places import Place
from natsel.runs.places import default_workers as default_workers
from natsel.runs.processes import in_processes, telling

_LOG = logger_of(__name__)


class ShardDone(Exception):
    """A shard has run what is its own; other shards run the rest.

    Attributes:
        label: of the cells.
        mine: how many are of this shard.
        left: how many are of others and not here.
        failed: how cells of this shard failed.
    """

    def __init__(self, label: str, mine: int, left: int, failed: tuple[Failure, ...]) -> None:
        super().__init__(f"{label}: {left} cells are left to other shards")
        self.label, self.mine, self.left, self.failed = label, mine, left, failed


class RoundMissing(Exception):
    """Nothing of a round of cells is there yet: it depends on the round before it.

    Attributes:
        label: of the cells.
        num_cells: how many there are.
    """

    def __init__(self, label: str, num_cells: int) -> None:
        super().__init__(f"{label}: none of {num_cells} cells is there")
        self.label, self.num_cells = label, num_cells


@dataclass(frozen=True)
class Ran:
    """What came of some cells.

    Attributes:
        results: one per job, None for one that failed.
        failed: how it did.
    """

    results: list[dict[str, Any] | None]
    failed: tuple[Failure, ...] = ()

    def whole(self) -> list[dict[str, Any]]:
        """Return all results.

        Raises:
            ValueError: if a cell failed for what its input is.
            ArithmeticError: if a number of a cell became NaN.
            RuntimeError: if it failed otherwise.
        """
        if self.failed:
            raise self.failed[0].error()
        return [result for result in self.results if result is not None]


def ready(place: Place) -> AbstractContextManager[Any]:
    """Be connected to the cluster that a place names, before anything is done for it.

    Raises:
        ValueError: if it is not there.
        MissingExtraError: if Ray is not installed.
    """
    if place.on is None:
        return nullcontext()
    from natsel.runs.on_ray import connected

    return connected(place.on)


def run_jobs(
    work: Work, jobs: Sequence[Any], folder: Path, *, workers: int, progress: Progress, label: str
) -> list[dict[str, Any]]:
    """Run jobs in processes of this machine, as :func:`run_cells`; all of them have to succeed.

    Raises:
        ValueError: as :func:`run_cells`, or if a job fails for what its input is.
        ArithmeticError: if a number of a job became NaN; the others were run.
        RuntimeError: if one failed otherwise, or a worker was killed.
    """
    place = Place(workers)
    return run_cells(work, jobs, folder, place=place, progress=progress, label=label).whole()


def run_cells(
    work: Work,
    jobs: Sequence[Any],
    folder: Path,
    *,
    place: Place,
    progress: Progress,
    label: str,
    needs: Needs = Needs(),  # noqa: B008 (frozen)
) -> Ran:
    """Run jobs that are not kept yet, wherever ``place`` says, and return all results in order.

    Every worker computes with one thread, so a result depends neither on how many there are nor
    on where they are. A job that fails does not end the others, and is run again by the next run.

    Args:
        work: a module-level function from a job to its result (plain JSON data).
        jobs: what to run: frozen dataclasses of plain values, each with a ``label``, which is
            what to call it in messages; fields with ``compare=False`` are where it reads and
            writes.
        folder: where results are kept.
        place: where cells run.
        progress: called after every job.
        label: what ``progress`` is told.
        needs: what jobs need on machines that do not share a disk.

    Returns:
        One result per job, and what failed.

    Raises:
        ValueError: if a kept result is damaged, or no job has a result and the first failed for
            what its input is.
        ArithmeticError: if no job has a result and the first failed for a number that became NaN.
        RuntimeError: if a worker was killed; what is finished stays.
        ShardDone: if only a share was run, and the rest is not there.
        RoundMissing: if all are to be there and none is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    tasks = [Task(work, job, path_of(folder, job), index) for index, job in enumerate(jobs)]
    missing = [task for task in tasks if not task.path.is_file()]
    for task in tasks:
        if task.path.is_file():
            read_object(task.path)  # what is damaged is told before the work
    if place.gathering and missing:
        _refuse_missing(label, tasks, missing)
    mine = [t for t in missing if place.shard is None or place.shard.holds(t.index)]
    done, total = len(jobs) - len(missing), len(jobs) - len(missing) + len(mine)
    if done:
        _LOG.info("%s: %d of %d are there", label, done, len(jobs))
    progress(label, done, total)
    failed: list[Failure] = []
    try:
        with telling(progress), closing(_run(mine, place, needs)) as finished:
            for failure in finished:
                done += 1
                progress(label, done, total)
                if failure is not None:
                    _LOG.warning("%s", failure)
                    failed.append(failure)
    finally:
        sweep(folder)
    failed.sort(key=lambda failure: failure.index)
    if len(mine) < len(missing):
        own = sum(place.shard.holds(t.index) for t in tasks) if place.shard is not None else 0
        raise ShardDone(label, own, len(missing) - len(mine), tuple(failed))
    results = [read_object(task.path) if task.path.is_file() else None for task in tasks]
    if failed and not any(result is not None for result in results):
        raise failed[0].error()
    return Ran(results, tuple(failed))


def _run(tasks: Sequence[Task], place: Place, needs: Needs) -> Any:
    if place.on is None or not tasks:
        return in_processes(tasks, place.num_workers)
    from natsel.runs.on_ray import on_ray

    return on_ray(tasks, place.on, needs)


def _refuse_missing(label: str, tasks: Sequence[Task], missing: Sequence[Task]) -> None:
    if len(missing) == len(tasks):
        raise RoundMissing(label, len(tasks))
    names = listed([task.job.label for task in missing])
    allowed = f"those of all {len(tasks)} cells ({label}); {len(missing)} are missing: {names}"
    refuse("folders", f"cells of {len(tasks) - len(missing)}", allowed)
