"""Cells on a Ray cluster: the same results as here, whatever happens to its nodes."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from natsel.cli.main import app
from natsel.common.errors import NonFiniteError
from natsel.common.extras import MissingExtraError
from natsel.common.progress import silent
from natsel.data import load
from natsel.runs.cells import Needs
from natsel.runs.jobs import Ran, run_cells
from natsel.runs.on_ray import connected, on_ray
from natsel.runs.places import Place
from natsel.runs.training import Recipe
from natsel_papers.reproduce_evolution import Grid, reproduce_evolution

GRID = Grid(2, "digits", Recipe(1, 64, 0.01), (0.5,), ("logistic",))


@dataclass(frozen=True)
class Sum:
    number: int
    seconds: float = 0.0
    model: str = field(default="", compare=False)
    made: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        return f"sum {self.number}"


def summed(job: Sum) -> dict[str, Any]:
    """Work that reads a folder and a data set, and writes a folder."""
    if job.number == 2:
        raise NonFiniteError("the loss became nan at step 7")
    if job.number == 3:
        os._exit(1)
    time.sleep(job.seconds)
    (Path(job.made) / "part").mkdir(parents=True)
    text = (Path(job.model) / "weights.txt").read_text()
    (Path(job.made) / "part" / "weights.txt").write_text(text * job.number)
    (Path(job.made) / "left.tmp").write_text("large")
    return {"sum": int(load("digits").train_labels.sum()) + job.number}


def run(jobs: list[Sum], folder: Path, on: str = "ray") -> Ran:
    needs = Needs(("digits",), reads="model", writes="made", scratch=("left.tmp",))
    return run_cells(
        summed, jobs, folder, place=Place(on=on), progress=silent, label="sums", needs=needs
    )


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Lend a cluster of two nodes of one worker each, to which this process is connected."""
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    here = str(Path(__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        made.add_node(num_cpus=1)
        ray.init(address=made.address, log_to_driver=False, logging_level="error")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
def test_a_study_on_two_nodes_one_of_which_is_killed_gives_the_same_table(
    tmp_path: Path, cluster: Any
) -> None:
    reproduce_evolution(GRID, tmp_path / "here", workers=1)
    second = cluster.worker_nodes
    killed = []

    def progress(what: str, done: int, total: int) -> None:
        if what == "train networks" and done == 2 and not killed:
            killed.append(next(iter(second)))
            cluster.remove_node(killed[0], allow_graceful=False)

    place = Place(on=cluster.address)
    rows, _ = reproduce_evolution(GRID, tmp_path / "ray", place=place, progress=progress)
    assert killed
    assert not any(row["family"] == "failed" for row in rows)
    here, there = (tmp_path / name / "table.json" for name in ("here", "ray"))
    assert there.read_bytes() == here.read_bytes()


@pytest.mark.slow
def test_files_travel_failures_are_told_and_what_is_there_is_not_run(
    tmp_path: Path, cluster: Any
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.txt").write_text("w")
    jobs = [Sum(n, 0.0, str(tmp_path / "model"), str(tmp_path / f"made-{n}")) for n in (1, 2, 3, 4)]
    ran = run(jobs, tmp_path / "cells")
    total = int(load("digits").train_labels.sum())
    assert ran.results == [{"sum": total + 1}, None, None, {"sum": total + 4}]
    told = [(f.index, f.label, f.kind, f.told) for f in ran.failed]
    assert told == [
        (1, "sum 2", "NonFiniteError", "the loss became nan at step 7"),
        (2, "sum 3", "WorkerCrashedError", "its worker died"),
    ]
    assert (tmp_path / "made-4" / "part" / "weights.txt").read_text() == "wwww"
    assert sorted(p.name for p in (tmp_path / "made-4").iterdir()) == ["part"]
    assert not (tmp_path / "made-2").exists()
    (tmp_path / "model" / "weights.txt").unlink()
    again = run([jobs[0], jobs[3]], tmp_path / "cells")
    assert again.results == [ran.results[0], ran.results[3]]
    gpus = Needs(gpus=1)
    with pytest.raises(ValueError, match=r"^on='ray' .*expected a cluster with a GPU"):
        list(on_ray([object()], "ray", gpus))  # type: ignore[list-item]


def test_an_address_where_nobody_listens_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        call = ["reproduce", "evolution", "--on", address, "--out", str(tmp_path / "out")]
        found = CliRunner().invoke(app, call)
        assert found.exit_code == 2
        assert found.stderr == (
            f"natsel: on='{address}' is not allowed: expected an address at which Ray listens "
            "(connection refused)\n"
        )
        assert not (tmp_path / "out").exists()


def test_an_address_where_something_else_listens_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("grpc")
    monkeypatch.setattr("natsel.runs.on_ray.PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ValueError, match=r"Ray listens \(somebody else does\)$"):
            connected(address).__enter__()


@pytest.mark.parametrize("wrong", ["spark", "ray://", "host", "host:0", "host:99999", "a b:1"])
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"^on=.*expected ray, auto, HOST:PORT or ray://HOST:PORT"):
        Place(on=wrong)


def test_workers_are_no_business_of_a_cluster() -> None:
    with pytest.raises(ValueError, match=r"^workers=2 is not allowed"):
        Place(2, "ray")


def test_without_ray_one_line_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'natsel\[ray\]'"):
        connected("ray").__enter__()
