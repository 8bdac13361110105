"""Cells as tasks of a Ray cluster: data put once, died workers tried again, results by cell.

natsel never unpickles a file. Ray moves tasks and results between its own processes by its own
means, pickle among them: a cluster is as trusted as the machine itself.
"""

from __future__ import annotations

import os
import socket
import tempfile
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from natsel.common.errors import first_line, refuse
from natsel.common.extras import require
from natsel.common.files import write_json
from natsel.common.timing import one_thread
from natsel.data import Dataset, load, names
from natsel.data.loading import lent
from natsel.runs import environment
from natsel.runs.cells import Failure, Needs, Task, Work
from natsel.runs.parcels import pack, unpack
from natsel.runs.places import AUTO, RAY, default_workers, host_and_port

RETRIES = 3
"""How often a cell is started again whose worker, or the machine that it was on, died."""
IN_FLIGHT = 2
"""Cells for each processor of the cluster that Ray is told of at once."""
AT_ONCE = 100
"""Finished cells that are looked for together: of many thousands each look is long."""
PATIENCE = 3.0
"""Seconds in which whoever listens at an address has to answer."""


def on_ray(
    tasks: Sequence[Task], address: str, needs: Needs
) -> Generator[Failure | None, None, None]:
    """Run cells on a Ray cluster; yield after each None, or how it failed.

    Args:
        tasks: the cells.
        address: as :class:`natsel.runs.places.Place`. A process that has connected to a cluster
            already stays with it.
        needs: what they read and write on machines that do not share a disk.

    Raises:
        ValueError: if there is no such cluster, or it lacks what a cell needs.
        MissingExtraError: if Ray is not installed.
    """
    with connected(address) as ray:
        _check_resources(ray, address, needs)
        known = [name for name in needs.datasets if name in names()]
        lent_data = ray.put({name: _as_arrays(load(name)) for name in known})
        parcels: dict[str, Any] = {}
        run = ray.remote(_run).options(
            num_cpus=1,
            num_gpus=needs.gpus,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )
        versions = _versions()
        most = IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting, running = list(reversed(tasks)), dict[Any, Task]()
        try:
            while waiting or running:
                while waiting and len(running) < most:
                    task = waiting.pop()
                    parcel = _parcel(ray, task, needs, parcels)
                    made = run.remote(task.work, task.job, needs, lent_data, parcel, versions)
                    running[made] = task
                some = min(len(running), AT_ONCE)
                ready, _ = ray.wait(list(running), num_returns=some, timeout=0.5)
                for made in ready:
                    yield _keep(ray, made, running.pop(made), needs)
        finally:
            for made in running:
                ray.cancel(made, force=True)


def _check_listens(address: str) -> None:
    """Refuse an address at which Ray does not listen: Ray itself would try for minutes."""
    where = host_and_port(address)
    try:
        socket.create_connection(where, timeout=PATIENCE).close()
    except OSError as error:
        told = str(error.strerror or error).lower()
        refuse("on", address, f"an address at which Ray listens ({told})")
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return  # whose certificates only Ray knows
    grpc = require("grpc", "ray")
    host = f"[{where[0]}]" if ":" in where[0] else where[0]
    with grpc.insecure_channel(f"{host}:{where[1]}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=PATIENCE)
        except grpc.FutureTimeoutError:
            refuse("on", address, "an address at which Ray listens (somebody else does)")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Be connected to a cluster, and no longer than needed; lend Ray.

    Raises:
        ValueError: if there is no such cluster.
        MissingExtraError: if Ray is not installed.
    """
    ray = require("ray", "ray")
    if ray.is_initialized():
        yield ray
        return
    if address not in (RAY, AUTO):
        _check_listens(address)
    told: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == RAY:
        told |= {"num_cpus": default_workers(), "include_dashboard": False}
    try:
        ray.init(address="local" if address == RAY else address, **told)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError, AssertionError) as error:
        if address == RAY:
            raise RuntimeError(f"Ray does not start here: {first_line(error)}") from None
        refuse("on", address, f"the address of a Ray cluster ({first_line(error)})")
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_resources(ray: Any, address: str, needs: Needs) -> None:
    """Refuse a cluster on which a cell would wait for ever."""
    there = ray.cluster_resources().get("GPU", 0)
    if needs.gpus > there:
        refuse("on", address, "a cluster with a GPU, or --device cpu")


def _parcel(ray: Any, task: Task, needs: Needs, parcels: dict[str, Any]) -> Any:
    """Return what a cell reads from this machine's disk, put once for all that read it."""
    path = getattr(task.job, needs.reads) if needs.reads is not None else None
    if path is None or not os.path.exists(path):
        return None
    if path not in parcels:
        parcels[path] = ray.put(pack(Path(path)))
    return parcels[path]


def _keep(ray: Any, made: Any, task: Task, needs: Needs) -> Failure | None:
    """Write what a cell returned: its files first, its result last."""
    try:
        found = ray.get(made)
    except ray.exceptions.RayTaskError as error:
        return Failure.of(task.index, task.job, error.cause)
    except ray.exceptions.RayError as error:
        # The name of the node and the log that Ray points to would differ from run to run.
        return Failure(task.index, task.job.label, type(error).__name__, "its worker died")
    if isinstance(found, Failure):
        return replace(found, index=task.index)
    result, files = found
    if needs.writes is not None:
        unpack(files, Path(getattr(task.job, needs.writes)))
    write_json(task.path, result)
    return None


def _run(
    work: Work,
    job: Any,
    needs: Needs,
    datasets: dict[str, dict[str, Any]],
    parcel: Any,
    versions: dict[str, str],
) -> Any:
    """Run a cell on a node; return its result and the files that it wrote, or how it failed."""
    with tempfile.TemporaryDirectory(prefix="natsel-") as scratch:
        try:
            if _versions() != versions:
                told = ", ".join(f"{k} {v}" for k, v in _versions().items())
                asked = ", ".join(f"{k} {v}" for k, v in versions.items())
                raise RuntimeError(f"a node has {told}; the study has {asked}")
            moved: dict[str, Any] = {}
            if parcel is not None:
                assert needs.reads is not None
                moved[needs.reads] = _unpacked(parcel)
            if needs.writes is not None:
                moved[needs.writes] = scratch
            held = {name: _from_arrays(parts) for name, parts in datasets.items()}
            with lent(held), one_thread():
                result = work(replace(job, **moved))
            files = pack(Path(scratch), needs.scratch) if needs.writes is not None else None
            return result, files
        except Exception as error:  # noqa: BLE001 - told as this cell's; the others go on
            return Failure.of(0, job, error)


def _as_arrays(dataset: Dataset) -> dict[str, Any]:
    """Return a data set whose tensors are arrays, which processes of one node share unread."""
    parts = {f.name: getattr(dataset, f.name) for f in fields(dataset)}
    return {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in parts.items()}


def _from_arrays(parts: dict[str, Any]) -> Dataset:
    with warnings.catch_warnings():
        # That arrays in shared memory cannot be written to is what they are for.
        warnings.simplefilter("ignore", UserWarning)
        made: dict[str, Any] = {
            k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in parts.items()
        }
    return Dataset(**made)


_PLACES: dict[str, tempfile.TemporaryDirectory[str]] = {}


def _unpacked(parcel: Any) -> str:
    """Return where the files of a parcel lie on this node, written once by each worker."""
    if parcel.digest not in _PLACES:
        held = tempfile.TemporaryDirectory(prefix="natsel-")
        unpack(parcel, Path(held.name) / parcel.name)
        _PLACES[parcel.digest] = held
    return str(Path(_PLACES[parcel.digest].name) / parcel.name)


@cache
def _versions() -> dict[str, str]:
    found = environment.versions()
    return {name: found[name] for name in ("natsel", "torch")}
