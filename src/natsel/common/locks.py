"""A folder has one writer at a time; the lock goes with the process that holds it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from natsel.common.errors import refuse
from natsel.common.interrupts import clearing_up

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".natsel.lock"
OWNER = ".natsel.owner"
"""In its place where a file system cannot lock: a file that says who made it."""

_OWNER = re.compile(r"(\d{1,10}) (\S{1,255})\s*")
_POLL = 0.05
_here = threading.local()


@contextlib.contextmanager
def hold(folder: Path, *, argument: str, wait: float = 0.0) -> Iterator[None]:
    """Be the only one who writes into a folder; a thread that holds it already may hold it again.

    A process that is killed lets go of it: the system keeps the lock, the file only names it.

    Args:
        folder: that is there.
        argument: what the caller calls it, for messages.
        wait: seconds to wait for another one.

    Raises:
        ValueError: if another process or thread holds it; the message names the process.
        OSError: if nothing can be written there.
    """
    held: set[tuple[int, int, int]] = vars(_here).setdefault("held", set())
    status = os.stat(folder)
    # A process that was forked off holds nothing.
    key = (os.getpid(), status.st_dev, status.st_ino)
    if key in held:
        yield
        return
    with clearing_up():
        handle = _wait(folder, argument, wait)
        held.add(key)
        try:
            yield
        finally:
            held.discard(key)
            _release(folder, handle)


def holder(folder: Path) -> str | None:
    """Say which process holds a folder, or None if none does; nothing is written."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | _NO_LINKS)
    except OSError:
        return None
    try:
        return None if _lock(handle) else _named(_read(handle))
    except OSError:  # the file system cannot lock
        return _living(folder / OWNER)
    finally:
        os.close(handle)


_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


def _wait(folder: Path, argument: str, wait: float) -> int:
    """Return a handle of the lock file that is locked."""
    deadline = time.monotonic() + wait
    while True:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o666)
        try:
            told = _taken(folder, handle)
        except BaseException:
            os.close(handle)
            raise
        if told == "":
            return handle
        os.close(handle)
        if told is not None and time.monotonic() >= deadline:
            _refuse(folder, argument, told)
        if told is not None:
            time.sleep(_POLL)


def _taken(folder: Path, handle: int) -> str | None:
    """Lock the file: return "" if it is done, who has it, or None to try again."""
    try:
        mine = _lock(handle)
    except OSError:
        return _own(folder / OWNER)
    if not mine:
        return _named(_read(handle))
    if not _is_at(handle, folder / LOCK):
        return None  # the one who held it has removed the file since it was opened
    os.ftruncate(handle, 0)
    with contextlib.suppress(OSError):  # a full disk keeps no name, and locks all the same
        os.write(handle, _me())
    return ""


def _release(folder: Path, handle: int) -> None:
    with contextlib.suppress(OSError):
        # Removed while it is locked, so that nobody else can have locked this very file.
        if _is_at(handle, folder / LOCK):
            with contextlib.suppress(OSError):
                if _read_file(folder / OWNER) == _me().decode():
                    os.unlink(folder / OWNER)
            os.unlink(folder / LOCK)
    os.close(handle)


def _lock(handle: int) -> bool:
    """Try to lock a file; raise an OSError where the file system cannot."""
    if sys.platform == "win32":
        os.lseek(handle, 2**30, os.SEEK_SET)  # what is locked cannot be read, and the name must be
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
    else:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _own(path: Path) -> str | None:
    """Make a file that says who holds the folder, as :func:`_taken` tells it."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        told = _living(path)
        if told is None:
            _remove_stale(path)
        return told
    with os.fdopen(handle, "wb") as file:
        file.write(_me())
    return ""


def _remove_stale(path: Path) -> None:
    """Remove the file of a dead process, and only that: another one may just have replaced it."""
    aside = path.with_name(f"{OWNER}.{secrets.token_hex(6)}.tmp")
    with contextlib.suppress(FileNotFoundError, FileExistsError):
        os.rename(path, aside)
        if _living(aside) is not None:
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _living(path: Path) -> str | None:
    """Name the process that made an owner's file; None if there is none or it is dead."""
    try:
        text = _read_file(path)
    except FileNotFoundError:
        return None
    found = _OWNER.fullmatch(text)
    if found is None or found[2] != socket.gethostname():
        return f"{_named(text)} (remove {path} if that is not so)"
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return None
    except (PermissionError, OverflowError):
        pass
    return _named(text)


def _me() -> bytes:
    return f"{os.getpid()} {socket.gethostname()}\n".encode()


def _read(handle: int) -> str:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, 300).decode(errors="replace")


def _read_file(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(300).decode(errors="replace")


def _named(text: str) -> str:
    found = _OWNER.fullmatch(text)
    if found is None:
        return "another process"
    where = "" if found[2] == socket.gethostname() else f" on {found[2]}"
    return f"process {found[1]}{where}"


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _refuse(folder: Path, argument: str, told: str) -> NoReturn:
    refuse(argument, str(folder), f"a folder that nobody else writes to, but {told} does")
