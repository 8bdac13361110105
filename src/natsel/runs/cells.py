"""One cell of a study: what it is called, what it needs where it runs, and how it fails."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from natsel.common.errors import NonFiniteError, first_line
from natsel.common.extras import MissingExtraError
from natsel.common.files import write_json

Work: TypeAlias = Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class Needs:
    """What cells read and write besides their own fields, for machines that do not share a disk.

    Attributes:
        datasets: names of data sets.
        reads: the field of a job that names a folder or file it reads, if there is one.
        writes: the field of a job that names a folder it fills, if there is one.
        scratch: files in that folder that nobody needs once the cell is finished.
        gpus: devices that a cell takes for itself.
    """

    datasets: tuple[str, ...] = ()
    reads: str | None = None
    writes: str | None = None
    scratch: tuple[str, ...] = ()
    gpus: int = 0


@dataclass(frozen=True)
class Task:
    """A cell that is to be run.

    Attributes:
        work: a module-level function from a job to its result (plain JSON data).
        job: what to run.
        path: where its result is kept.
        index: of the job among all.
    """

    work: Work
    job: Any
    path: Path
    index: int


@dataclass(frozen=True)
class Failure:
    """A cell that failed.

    Attributes:
        index: of the job among all.
        label: of the job.
        kind: of the error.
        told: its first line.
    """

    index: int
    label: str
    kind: str
    told: str

    @classmethod
    def of(cls, index: int, job: Any, error: BaseException) -> Failure:
        """Return the failure that an error is."""
        kind = type(error)
        # What a user can mend is told as such; of the rest the name says what it was.
        if isinstance(error, ValueError | FileNotFoundError | MissingExtraError):
            kind = ValueError
        elif isinstance(error, NonFiniteError):
            kind = NonFiniteError
        return cls(index, job.label, kind.__name__, first_line(error))

    def __str__(self) -> str:
        """Return the failure in one line."""
        return f"{self.label}: {self.told}"

    def error(self) -> Exception:
        """Return it as an exception, of the same kind wherever the cell ran."""
        if self.kind == "ValueError":
            return ValueError(str(self))
        if self.kind == "NonFiniteError":
            return NonFiniteError(str(self))
        return RuntimeError(f"{self.label}: {self.kind}: {self.told}")


def path_of(folder: Path, job: Any) -> Path:
    """Return where a job's result is kept: named for what it is and a hash of all of it.

    Where a job reads or writes is a field with ``compare=False``, and no part of what it is: the
    same cell has the same name in every folder and on every machine.
    """
    held = asdict(job)
    identity = {f.name: held[f.name] for f in fields(job) if f.compare}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return folder / f"{job.label.replace(' ', '-')}-{digest}.json"


def run_cell(task: Task) -> Failure | None:
    """Run a cell here, and keep its result or return how it failed."""
    try:
        result = task.work(task.job)
    except Exception as error:  # noqa: BLE001 - whatever one cell does, the others go on
        return Failure.of(task.index, task.job, error)
    finally:
        # A model in a cycle keeps its data set alive, which the collector counts as a few objects.
        gc.collect()
    write_json(task.path, result)
    return None


def listed(labels: Sequence[str], most: int = 5) -> str:
    """Return some labels, and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    more = len(labels) - most
    return ", ".join(labels[:most]) + (f" and {more} more" if more > 0 else "")
