"""Cached one by one, in order, whatever happens to the workers."""

import os
import signal
import time
from dataclasses import dataclass

import pytest
import torch

from natsel.common.errors import NonFiniteError
from natsel.common.files import read_json
from natsel.common.progress import silent
from natsel.runs.jobs import default_workers, path_of, run_jobs


@dataclass(frozen=True)
class Square:
    number: int
    folder: str = ""

    @property
    def label(self):
        return f"square {self.number}"


def square(job):
    return {"square": job.number**2, "threads": torch.get_num_threads()}


def fail_at_two(job):
    if job.number == 2:
        raise NonFiniteError("the loss became nan at step 7")
    return {"square": job.number**2}


def die(job):
    if job.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return {"square": job.number**2}


def run(work, jobs, folder, workers=1, progress=silent):
    return run_jobs(work, jobs, folder, workers=workers, progress=progress, label="jobs")


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_asked(tmp_path, workers):
    seen = []
    torch.set_num_threads(1)
    jobs = [Square(n) for n in (3, 1, 2)]
    results = run(
        square, jobs, tmp_path, workers, progress=lambda _, done, total: seen.append((done, total))
    )
    assert results == [{"square": n, "threads": 1} for n in (9, 1, 4)]
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        path_of(tmp_path, job).name for job in jobs
    )


def test_a_single_worker_gives_the_threads_back(tmp_path):
    torch.set_num_threads(2)
    assert run(square, [Square(1)], tmp_path)[0]["threads"] == 1
    assert torch.get_num_threads() == 2


def test_what_is_cached_is_not_run(tmp_path):
    run(square, [Square(1), Square(2)], tmp_path)

    def never(job):
        assert job.number == 5
        return {"square": 25}

    seen = []
    results = run(
        never,
        [Square(2), Square(5), Square(1)],
        tmp_path,
        progress=lambda _, done, total: seen.append((done, total)),
    )
    assert [r["square"] for r in results] == [4, 25, 1]
    assert seen == [(2, 3), (3, 3)]


def test_any_other_field_is_another_job(tmp_path):
    assert path_of(tmp_path, Square(1)) != path_of(tmp_path, Square(1, "elsewhere"))
    assert path_of(tmp_path, Square(1)).name.startswith("square-1-")


def test_a_failure_names_the_training_and_keeps_the_rest(tmp_path):
    jobs = [Square(n) for n in (1, 2, 3)]
    with pytest.raises(NonFiniteError, match=r"^square 2: the loss became nan at step 7$"):
        run(fail_at_two, jobs, tmp_path)
    assert read_json(path_of(tmp_path, jobs[0])) == {"square": 1}
    assert run(square, jobs, tmp_path)[0] == {"square": 1}


def test_a_worker_that_is_killed_ends_the_run(tmp_path):
    jobs = [Square(n) for n in (1, 2, 3)]
    with pytest.raises(RuntimeError, match=r"a worker process was killed.*--resume"):
        run(die, jobs, tmp_path, workers=2)
    assert [r["square"] for r in run(square, jobs, tmp_path)] == [1, 4, 9]


def test_half_written_results_are_swept(tmp_path):
    (tmp_path / ".square-1-x.json.0123456789ab.tmp").write_text("{")
    (tmp_path / ".mine.tmp").write_text("kept")
    run(square, [Square(1)], tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".mine.tmp",
        path_of(tmp_path, Square(1)).name,
    ]


def test_a_damaged_result_is_named(tmp_path):
    run(square, [Square(1)], tmp_path)
    path_of(tmp_path, Square(1)).write_text("{")
    with pytest.raises(ValueError, match=r"square-1-\w+\.json is not valid JSON"):
        run(square, [Square(1)], tmp_path)


@pytest.mark.parametrize("workers", [0, -1, 1.5])
def test_workers_are_checked(tmp_path, workers):
    with pytest.raises(ValueError, match=f"^workers={workers} is not allowed"):
        run(square, [], tmp_path, workers)
    assert default_workers() >= 1
