"""What processes add up together: the one place through which numbers go from one to another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from natsel.common.errors import refuse


class Traffic:
    """How much was handed to collective calls.

    Attributes:
        num_calls: how many there were.
        num_bytes: of what this process gave to them.
    """

    def __init__(self) -> None:
        self.num_calls = 0
        self.num_bytes = 0

    def add(self, values: Tensor) -> None:
        """Count one call."""
        self.num_calls += 1
        self.num_bytes += values.numel() * values.element_size()


ALL = "default"
_COUNTING: list[Traffic] = []


@contextmanager
def counted_traffic() -> Iterator[Traffic]:
    """Count what goes through :func:`summed` and :func:`gathered` meanwhile.

    Example:
        >>> with counted_traffic() as traffic:
        ...     _ = summed(torch.ones(3), None)
        >>> traffic.num_bytes
        0
    """
    traffic = Traffic()
    _COUNTING.append(traffic)
    try:
        yield traffic
    finally:
        _COUNTING.remove(traffic)


def check_group(group: Any) -> None:
    """Refuse what is no group of processes.

    Raises:
        ValueError: naming the argument, and what is allowed.

    Example:
        >>> check_group("all")
        Traceback (most recent call last):
        ValueError: group='all' is not allowed: expected 'default', a process group or None
    """
    if group is None:
        return
    if isinstance(group, str) and group != ALL:
        refuse("group", group, f"{ALL!r}, a process group or None")
    if not dist.is_available() or not dist.is_initialized():
        allowed = (
            "None where no process group is initialised (call init_process_group, or torchrun)"
        )
        refuse("group", str(group), allowed)


def num_processes(group: Any) -> int:
    """Return how many processes a group has; 1 without a group."""
    return 1 if group is None else dist.get_world_size(_of_torch(group))


def rank_in(group: Any) -> int:
    """Return the place of this process in a group; 0 without a group."""
    return 0 if group is None else dist.get_rank(_of_torch(group))


def summed(values: Tensor, group: Any) -> Tensor:
    """Return the sum of tensors of one shape over the processes of a group.

    Half precision is added up in float32.

    Args:
        values: of this process; it may be overwritten.
        group: of processes, "default" for all; None for this one alone.
    """
    if group is None or num_processes(group) == 1:
        return values
    if values.is_floating_point() and values.element_size() < 4:
        values = values.float()
    values = values.contiguous()
    for traffic in _COUNTING:
        traffic.add(values)
    dist.all_reduce(values, group=_of_torch(group))
    return values


def summed_together(values: Sequence[Tensor], group: Any) -> list[Tensor]:
    """Return the sums of several tensors of one type, in one call.

    Example:
        >>> summed_together([torch.ones(2), torch.zeros(1, 1)], None)
        [tensor([1., 1.]), tensor([[0.]])]
    """
    if group is None or not values:
        return list(values)
    flat = summed(torch.cat([v.reshape(-1) for v in values]), group)
    parts = torch.split(flat, [v.numel() for v in values])
    return [part.view(v.shape) for part, v in zip(parts, values, strict=True)]


def gathered(values: Tensor, group: Any) -> list[Tensor]:
    """Return the tensors of one shape that all processes of a group hold, in their order."""
    if group is None or num_processes(group) == 1:
        return [values]
    found = [torch.empty_like(values) for _ in range(num_processes(group))]
    for traffic in _COUNTING:
        traffic.add(values)
    dist.all_gather(found, values.contiguous(), group=_of_torch(group))
    return found


def any_of(told: bool, group: Any, device: torch.device) -> bool:
    """Tell whether any process of a group says yes."""
    if group is None or num_processes(group) == 1:
        return told
    return not math.isclose(float(summed(torch.tensor(float(told), device=device), group)), 0.0)


def device_of(group: Any) -> torch.device:
    """Return where the collective calls of a group take tensors."""
    accelerated = group is not None and "nccl" in dist.get_backend(_of_torch(group))
    return torch.device("cuda", torch.cuda.current_device()) if accelerated else torch.device("cpu")


def _of_torch(group: Any) -> Any:
    """Return a group as torch takes it: None for all processes."""
    return None if isinstance(group, str) else group
