"""The same work in two processes of gloo on this machine, with one thread each."""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
WORLD = 2


def in_processes(work: Callable[..., None], *args: Any, read: Callable[[str], T]) -> T:
    """Run work in each process, and return what is read of the files that it left.

    Args:
        work: of ``(rank, folder, *args)``.
        args: that can be sent to a process.
        read: from the folder to the result.

    Raises:
        RuntimeError: if a process failed; it has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        workers = [
            context.Process(target=_start, args=(work, rank, port, folder, args))
            for rank in range(WORLD)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise RuntimeError(f"a process of {work.__module__} failed")
        return read(folder)


def _start(
    work: Callable[..., None], rank: int, port: int, folder: str, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD)
    try:
        work(rank, folder, *args)
        dist.barrier()
    finally:
        dist.destroy_process_group()
