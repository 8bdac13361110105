"""Weights that lie in a file: what was read of them may leave memory until it is read again.

Files of weights are mapped, not copied: a page of one comes into memory when it is first read, and
stays. A process that goes through a large model block by block is charged with all of it, though
it reads one block at a time. Pages that nobody has written to hold what the file holds, so they
can be let go at any time: the next read brings them back, from the cache of the system as a rule.
Those that were written to are the process's own by then, and stay.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import numpy as np
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

SUFFIX = ".safetensors"
STRIDE = 2**26
"""Bytes of weights that run before what was read of files is let go again."""
DONT_NEED = 4
"""MADV_DONTNEED of mman.h."""
ENTRY = 8
"""Bytes in which /proc/self/pagemap tells of a page, of which these bits are read."""
THERE = np.uint64(1 << 63)
SWAPPED = np.uint64(1 << 62)
OF_FILE = np.uint64(1 << 61)

_allowed = False
_running: list[_Running] = []


def allow() -> None:
    """Let mapped weights go whenever memory is given back, from now on.

    For processes that are ours alone: between the look at a page and its going no other thread may
    write to it.
    """
    global _allowed
    _allowed = True


def let_go() -> int:
    """Let go of what was read of files of weights, where it is allowed and Linux tells of pages.

    Returns:
        How many bytes were asked to leave; 0 elsewhere.
    """
    if not _allowed or sys.platform != "linux":
        return 0
    left = 0
    with suppress(OSError, AttributeError):  # a system that tells nothing of its pages
        for start, end in _mappings():
            for first, last in _unwritten(start, end):
                left += last - first if _drop(first, last) else 0
    return left


class _Running:
    """Lets go of mapped weights while models run.

    Args:
        stride: bytes of weights that run in between.
    """

    def __init__(self, stride: int) -> None:
        self._stride, self._ran = stride, 0
        self.begin()

    def begin(self) -> None:
        self._handle = register_module_forward_hook(self._after)

    def end(self) -> None:
        self._handle.remove()

    def _after(self, module: nn.Module, _: Any, __: Any) -> None:
        self._ran += sum(p.nbytes for p in module._parameters.values() if p is not None)
        if self._ran >= self._stride:
            self._ran = 0
            let_go()


@contextmanager
def letting_go(stride: int = STRIDE) -> Iterator[None]:
    """While models run, let go of mapped weights whenever so many bytes of weights were run.

    Nothing happens in a process that is not ours alone, see :func:`allow`.

    Args:
        stride: bytes.

    Example:
        >>> import torch
        >>> with letting_go():
        ...     nn.Linear(1, 1, bias=False)(torch.zeros(1)).tolist()
        [0.0]
    """
    if not _allowed:
        yield
        return
    _running.append(_Running(stride))
    try:
        yield
    finally:
        _running.pop().end()
        let_go()


@contextmanager
def staying() -> Iterator[None]:
    """Let what was read stay for a while: a model that is timed shall not wait for files.

    Example:
        >>> with letting_go(), staying():
        ...     pass
    """
    paused = _running[:]
    _running.clear()
    for each in paused:
        each.end()
    try:
        yield
    finally:
        for each in paused:
            each.begin()
        _running.extend(paused)


def _mappings() -> Iterator[tuple[int, int]]:
    """Return where files of weights are mapped, privately, so that a write would not reach them."""
    with open("/proc/self/maps") as lines:
        found = [line.split(maxsplit=5) for line in lines if SUFFIX in line]
    for place, mode, *_, name in found:
        if mode.endswith("p") and name.rstrip("\n").removesuffix(" (deleted)").endswith(SUFFIX):
            start, end = place.split("-")
            yield int(start, 16), int(end, 16)


def _unwritten(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Return the stretches of a mapping in which no page was written to."""
    page = mmap.PAGESIZE
    with open("/proc/self/pagemap", "rb", buffering=0) as pages:
        pages.seek(start // page * ENTRY)
        told = pages.read((end - start) // page * ENTRY)
    if len(told) != (end - start) // page * ENTRY:
        return
    # No tensors: while a model is traced, these would be traced with it.
    entries = np.frombuffer(told, dtype=np.uint64)
    is_there = entries & (THERE | SWAPPED) != 0
    is_own = is_there & (entries & (OF_FILE | SWAPPED) != OF_FILE)
    ends = [-1, *is_own.nonzero()[0].tolist(), len(entries)]
    for before, after in pairwise(ends):
        if after - before > 1:
            yield start + (before + 1) * page, start + after * page


def _drop(start: int, end: int) -> bool:
    library = ctypes.CDLL(None)
    advice = (ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_int(DONT_NEED))
    return bool(library.madvise(*advice) == 0)
