"""What one process does for all: the others wait, and hear if it failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from natsel.common.sharding.reducing import any_of, device_of, rank_in
from natsel.common.sharding.wrapping import Spread


def is_first(spread: Spread) -> bool:
    """Tell whether this process is the first of all that hold shares of a model."""
    return rank_in(spread.group) == 0 and rank_in(spread.replicas) == 0


@contextmanager
def together(spread: Spread, what: str, error: type[Exception] = RuntimeError) -> Iterator[None]:
    """Wait at the end for the first process; where it failed, fail here too.

    Args:
        spread: the processes.
        what: the first process does.
        error: what the others raise if it could not; it raises what it met.

    Raises:
        Exception: of the given class, if the first process could not do it.
    """
    met: Exception | None = None
    try:
        yield
    except Exception as found:  # noqa: BLE001 - the others wait for what came out
        met = found
    failed = met is not None
    for group in (spread.group, spread.replicas):
        failed = any_of(failed, group, device_of(group))
    if met is not None:
        raise met
    if failed:
        raise error(f"process {dist.get_global_rank(spread.group, 0)} could not {what}")
