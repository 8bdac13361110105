"""Where the cells of a study run: processes here, a Ray cluster, or a share of them here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from natsel.common.errors import refuse
from natsel.common.numbers import check_whole

RAY = "ray"
"""A Ray cluster of this machine alone, started for the study."""
AUTO = "auto"
"""The Ray cluster that this machine is a node of."""
_ADDRESS = re.compile(r"(ray://)?(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Shard:
    """Every so manieth cell of a study: the share of one task of an array.

    Attributes:
        number: which share, from 1.
        count: how many shares there are.
    """

    number: int
    count: int

    @classmethod
    def of(cls, text: str) -> Shard:
        """Return the shard that a text such as ``3/16`` names.

        Raises:
            ValueError: if it names none.

        Example:
            >>> Shard.of("3/16")
            Shard(number=3, count=16)
            >>> Shard.of("17/16")
            Traceback (most recent call last):
            ValueError: shard='17/16' is not allowed: expected K/N with 1 <= K <= N, such as 3/16
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count:
            refuse("shard", text, "K/N with 1 <= K <= N, such as 3/16")
        return cls(number, count)

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.number}/{self.count}"

    def holds(self, index: int) -> bool:
        """Say whether the cell of an index, from 0, is of this share."""
        return index % self.count == self.number - 1


@dataclass(frozen=True)
class Place:
    """Where the cells of a study run. The table is the same, byte for byte, wherever that is.

    Attributes:
        workers: processes of this machine side by side; None for one per core. Not with ``on``:
            Ray knows what its nodes hold.
        on: None for this machine; ``"ray"`` for a Ray cluster of this machine, ``"auto"`` for the
            one that it is a node of, or an address, ``"host:port"`` or ``"ray://host:port"``.
        shard: run only this share of the cells.
        after: a folder of the same study whose finished cells are taken over.
        gathering: run nothing: every cell is there, or it is refused.

    Raises:
        ValueError: if an argument is not allowed.
    """

    workers: int | None = None
    on: str | None = None
    shard: Shard | None = None
    after: Path | None = None
    gathering: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_whole("workers", self.workers)
        if self.on is None:
            return
        if self.workers is not None:
            refuse("workers", self.workers, f"none with on={self.on!r}: a cluster knows its own")
        if self.on not in (RAY, AUTO):
            host_and_port(self.on)

    @property
    def num_workers(self) -> int:
        """How many processes of this machine run side by side."""
        return self.workers if self.workers is not None else default_workers()


def place_of(
    workers: int | None = None,
    on: str | None = None,
    shard: str | None = None,
    after: str | os.PathLike[str] | None = None,
) -> Place:
    """Return the place that options name: see :class:`Place`.

    Raises:
        ValueError: if an option is not allowed.

    Example:
        >>> place_of(shard="3/16").shard
        Shard(number=3, count=16)
    """
    return Place(
        workers,
        on,
        Shard.of(shard) if shard is not None else None,
        Path(after) if after is not None else None,
    )


def host_and_port(address: str) -> tuple[str, int]:
    """Return where an address of Ray listens.

    Raises:
        ValueError: if it is no address.

    Example:
        >>> host_and_port("ray://head.cluster:10001")
        ('head.cluster', 10001)
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 2**16:
        refuse("on", address, "ray, auto, HOST:PORT or ray://HOST:PORT")
    return found["host"].strip("[]"), int(found["port"])


def default_workers() -> int:
    """Return one process per core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)
