"""Processes that train copies of one model: what they must agree on."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from natsel.common.errors import refuse
from natsel.common.numbers import check_whole
from natsel.common.sharding.reducing import ALL, device_of, gathered


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

    def group(self) -> Any:
        """Return the processes, as :mod:`natsel.common.sharding.reducing` takes them."""
        return self._group if self.size() > 1 else None

    def compare_when_due(self, masses: Tensor, step: int, generator: torch.Generator) -> None:
        """Make sure that all processes have the same masses after the same steps.

        That is looked at after the first step, and after every so many.

        Args:
            masses: of all populations.
            step: how many steps there were.
            generator: what chance is drawn from.

        Raises:
            PartedError: naming the process that has others, and the step.
        """
        due = self._every is not None and (step == 1 or step % self._every == 0)
        if not due or self.size() == 1:
            return
        digests = [
            zlib.crc32(t.detach().cpu().numpy().tobytes()) for t in (generator.get_state(), masses)
        ]
        mine = torch.tensor([step, *digests], dtype=torch.int64, device=device_of(self._group))
        rows = [row.tolist() for row in gathered(mine, self._group)]
        for rank, row in enumerate(rows):
            if row != rows[0]:
                told = (f"is at step {row[0]}, another one", "has another seed", "has other masses")
                what = next(t for t, a, b in zip(told, row, rows[0], strict=True) if a != b)
                raise PartedError(
                    f"process {rank} {what} than process 0 at step {rows[0][0]}: call "
                    "evolution.step() in every process, after gradients were reduced, from the "
                    "same seed and state; or pass process_group=None if each process trains a "
                    "model of its own"
                )

    def _given(self) -> Any:
        return None if isinstance(self._group, str) else self._group


def check_alike(sizes: Mapping[str, int], group: Any) -> None:
    """Make sure that processes that hold shares of a model have the same communities of it.

    Args:
        sizes: of the communities of this process, by name.
        group: the processes.

    Raises:
        PartedError: naming the process that has others.

    Example:
        >>> check_alike({"0": 8}, None)
    """
    told = zlib.crc32(repr(list(sizes.items())).encode())
    rows = gathered(torch.tensor([told], device=device_of(group)), group)
    for rank, row in enumerate(rows):
        if int(row) != int(rows[0]):
            raise PartedError(
                f"process {rank} has other communities than process 0: call natsel.discover with "
                "the same options in every process, and let the same kinds evolve"
            )
