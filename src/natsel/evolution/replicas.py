"""Processes that train copies of one model: what they must agree on."""

from __future__ import annotations

import zlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from natsel.common.errors import refuse
from natsel.common.numbers import check_whole

ALL = "default"


class PartedError(RuntimeError):
    """Processes that train copies of one model have different masses."""


class Replicas:
    """The processes that train copies of one model together, each on its own batches.

    Args:
        group: "default" for all processes of ``torch.distributed``, where it runs; a process
            group; or None if each process trains a model of its own.
        compare_every: steps between two comparisons of the masses; None for never.

    Raises:
        ValueError: if an argument is of another kind.
    """

    def __init__(self, group: Any, compare_every: int | None) -> None:
        if isinstance(group, str) and group != ALL:
            refuse("process_group", group, f"{ALL!r}, a process group or None")
        if compare_every is not None:
            check_whole("compare_every", compare_every, more=", or None")
        self._group = group
        self._every = compare_every

    def __deepcopy__(self, memo: dict[int, Any]) -> Replicas:
        return Replicas(self._group, self._every)  # a process group is no value

    def size(self) -> int:
        """Return how many processes there are."""
        if self._group is None or not dist.is_available() or not dist.is_initialized():
            return 1
        return dist.get_world_size(self._given())

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes of what each has read from its own batch."""
        size = self.size()
        if size > 1:
            dist.all_reduce(values, group=self._given())
            values /= size
        return values

    def compare_when_due(self, masses: Tensor, step: int) -> None:
        """Make sure that all processes have the same masses after the same steps.

        Raises:
            PartedError: naming the process that has others, and the step.
        """
        if self._every is None or step % self._every or (size := self.size()) == 1:
            return
        digest = zlib.crc32(masses.detach().cpu().numpy().tobytes())
        on = "cuda" if dist.get_backend(self._given()) == "nccl" else "cpu"
        mine = torch.tensor([digest, step], dtype=torch.int64, device=on)
        found = [torch.empty_like(mine) for _ in range(size)]
        dist.all_gather(found, mine, group=self._given())
        pairs = [tuple(row.tolist()) for row in found]
        for rank, (theirs, at) in enumerate(pairs):
            if (theirs, at) != pairs[0]:
                what = f"is at step {at}" if at != pairs[0][1] else "has other masses"
                raise PartedError(
                    f"process {rank} {what} than process 0 at step {pairs[0][1]}: call "
                    "evolution.step() in every process, after gradients were reduced, from the "
                    "same seed and state; or pass process_group=None if each process trains a "
                    "model of its own"
                )

    def _given(self) -> Any:
        return None if isinstance(self._group, str) else self._group
