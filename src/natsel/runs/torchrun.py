"""A run that ``torchrun`` started in several processes: each trains on its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from natsel.common.calls import IGNORED
from natsel.common.errors import refuse
from natsel.common.sharding.reducing import gathered, summed, summed_together


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: of this one.
        size: how many there are.
        group: all of them, as :mod:`natsel.common.sharding.reducing` takes them; None if alone.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return this process's samples of a batch, and their share of the labels that count.

        The loss over the whole batch is the sum over processes of share times loss.

        Example:
            >>> x, y, share = Processes(rank=1, size=2).share(torch.arange(3), torch.arange(3))
            >>> x.tolist(), round(share, 3)
            ([1], 0.333)
        """
        if self.size == 1:
            return x, y, 1.0
        mine = y[self.rank :: self.size]
        share = _num_counting(mine) / max(_num_counting(y), 1)
        return x[self.rank :: self.size], mine, share

    def batches(self, data: Any) -> Any:
        """Return this process's share of some batches."""
        return data if data is None or self.size == 1 else list(data)[self.rank :: self.size]

    def sum_of(self, loss: Tensor) -> float:
        """Return the sum over the processes of a loss."""
        return float(summed(loss.detach().clone(), self.group))

    def add_up(self, model: nn.Module) -> None:
        """Add up gradients over the processes, in place."""
        if self.size == 1:
            return
        gradients = []
        for parameter in model.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for gradient, total in zip(gradients, summed_together(gradients, self.group), strict=True):
            gradient.copy_(total)

    def average_buffers(self, model: nn.Module) -> None:
        """Let running statistics be the mean over the processes, each of which saw its samples."""
        if self.size == 1:
            return
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        for buffer, total in zip(buffers, summed_together(buffers, self.group), strict=True):
            buffer.copy_(total / self.size)

    def tell(self, yes: bool) -> None:
        """Tell the other processes whether there is anything to do together."""
        summed(torch.tensor(int(yes)), self.group)

    def hear(self) -> bool:
        """Return what the first process tells, once it does."""
        return bool(summed(torch.tensor(0), self.group))

    def same(self, what: str, value: int, remedy: str) -> None:
        """Make sure that all processes have one number.

        Raises:
            ValueError: in every process, naming one that has another.
        """
        if self.size == 1:
            return
        found = [int(other) for other in gathered(torch.tensor([value]), self.group)]
        for rank, other in enumerate(found):
            if other != found[0]:
                refuse(what, f"{other} in process {rank}, {found[0]} in process 0", remedy)


ALONE = Processes()


def _num_counting(labels: Tensor) -> int:
    return int((labels != IGNORED).sum()) if labels.numel() else 0


def started_by_torchrun() -> bool:
    """Tell whether ``torchrun`` started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def refuse_several(what: str) -> None:
    """Refuse what runs in one process, if ``torchrun`` started several.

    Raises:
        ValueError: naming it, with the remedy.
    """
    if started_by_torchrun():
        size = int(os.environ["WORLD_SIZE"])
        refuse("--nproc-per-node", size, f"1 for {what}: start it as natsel, without torchrun")


@contextmanager
def of_torchrun() -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, if it did; natsel alone otherwise.

    Yields:
        The processes. They talk over gloo: what a run of the command line trains is on processors.
    """
    if not started_by_torchrun():
        yield ALONE
        return
    dist.init_process_group("gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), "default")
    finally:
        dist.destroy_process_group()
