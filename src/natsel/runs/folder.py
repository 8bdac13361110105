"""A folder belongs to one run: looked at and held before any work, taken once it can start."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from natsel.common.errors import first_line, refuse
from natsel.common.files import is_temporary, sweep, write_json
from natsel.common.folders import make_folder, remove_empty
from natsel.common.interrupts import clearing_up
from natsel.common.json_data import read_json, read_object
from natsel.common.locks import LOCK, OWNER, hold, holder
from natsel.common.writing import UnwrittenError, writing

CONFIG = "config.json"
RESULT = "result.json"
_NO_FAULT_OF_THE_INPUT = {errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


@contextlib.contextmanager
def claim(folder: Path, config: Mapping[str, Any], resume: bool) -> Iterator[None]:
    """Hold a folder for a run, from before its work to its end.

    Args:
        folder: as :func:`check` wants it; it is made, and gone again if nothing was put there.
        config: everything that decides the outcome of the run.
        resume: go on with what the folder holds.

    Raises:
        ValueError: as :func:`check`, if another process uses the folder, or it cannot be written.
        OSError: if there is no space.
    """
    check(folder, config, resume)
    with alone(folder):
        check(folder, config, resume, held=True)  # another run may have begun since
        yield


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be; it is gone again if nothing was put there.

    Raises:
        ValueError: if another process uses the folder, or it cannot be written.
        OSError: if there is no space.
    """
    with clearing_up():
        created: list[Path] = []
        try:
            with contextlib.ExitStack() as stack:
                with _writable(folder):
                    created = make_folder(folder, "out")
                    stack.enter_context(hold(folder, argument="out"))
                yield
        finally:
            remove_empty(created)


def check(folder: Path, config: Mapping[str, Any], resume: bool, *, held: bool = False) -> None:
    """Make sure that a run may have a folder; nothing is written.

    Args:
        folder: new, empty, or with ``resume`` one that holds this very run.
        config: everything that decides the outcome of the run.
        resume: go on with what the folder holds.
        held: this process holds the folder.

    Raises:
        ValueError: if it is no folder or cannot be written, holds anything else, is used by
            another process, or holds this run and ``resume`` is not asked.
    """
    nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not nearest.is_dir():
        refuse("out", str(folder), f"a folder, but {nearest} is none")
    user = None if held else holder(folder)
    if user is not None:
        refuse("out", str(folder), f"a folder that nobody else writes to, but {user} does")
    mine = folder / CONFIG
    if mine.is_file():
        held_config = read_json(mine)
        wanted = plain(config)
        if held_config != wanted:
            other = f"this one holds another run{differing(held_config, wanted)}"
            refuse("out", str(folder), f"a new folder: {other}")
        if not resume:
            refuse("out", str(folder), "a new folder, or --resume to go on with this run")
        return
    if nearest == folder and not all(_is_ours(p) for p in folder.iterdir()):
        refuse("out", str(folder), "a new or empty folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        refuse("out", str(folder), f"a folder that can be written, but {nearest} cannot")


def take(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the configuration into a folder that is held; what a killed run left half goes.

    Raises:
        ValueError: if the folder cannot be written, or another run took it.
        OSError: if there is no space.
    """
    with _writable(folder):
        sweep(folder, below=True)
        if not (folder / CONFIG).is_file():
            with contextlib.suppress(FileExistsError):
                write_json(folder / CONFIG, dict(config), exclusive=True)
    if read_json(folder / CONFIG) != plain(config):
        refuse("out", str(folder), "a folder that no other run has taken")


def finished(path: Path, config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Read the result of a run that is finished, once it is that of this very run.

    Args:
        path: of the result.
        config: of the run.
        kind: what the result says it is.

    Raises:
        ValueError: if it is damaged, or of another run.
    """
    found = read_object(path)
    if found.get("kind") != kind:
        raise ValueError(f"{path} is damaged: it is no result of natsel {kind}")
    if found.get("config") != plain(config):
        told = differing(found.get("config"), plain(config))
        raise ValueError(f"{path} is of another run than {CONFIG} beside it{told}")
    return found


def plain(config: Mapping[str, Any]) -> Any:
    """Return a configuration as a file gives it back."""
    return json.loads(json.dumps(config))


def differing(held: Any, wanted: Mapping[str, Any]) -> str:
    """Say which settings differ."""
    if not isinstance(held, dict):
        return ""
    names = sorted(k for k in {*held, *wanted} if held.get(k) != wanted.get(k))
    return f" (of other {', '.join(names)})"


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Refuse a folder that this user may not write; a full disk is no fault of the input."""
    try:
        with writing(folder):
            yield
    except UnwrittenError:
        raise
    except OSError as error:
        if error.errno in _NO_FAULT_OF_THE_INPUT:
            raise
        told = error.strerror or first_line(error)
        refuse("out", str(folder), f"a folder that can be written ({told})")


def _is_ours(path: Path) -> bool:
    return is_temporary(path) or path.name in (LOCK, OWNER)


def in_folder(
    folder: Path,
    kind: str,
    made: Callable[[], dict[str, Any]],
    *,
    allowed: str | None = None,
) -> dict[str, Any]:
    """Make a result while holding its folder, and write it there.

    Args:
        folder: new, empty, or one that holds an earlier result of this kind.
        kind: of the result, as it says itself.
        made: makes the result.
        allowed: what to say where there is a result of another kind; what :func:`check` says if
            not given.

    Returns:
        The result.

    Raises:
        ValueError: as :func:`check`; nothing is written then.
    """
    _check_kind(folder, kind, allowed)
    with alone(folder):
        _check_kind(folder, kind, allowed, held=True)
        sweep(folder)
        result = made()
        write_json(folder / RESULT, result)
    return result


def _check_kind(folder: Path, kind: str, allowed: str | None, *, held: bool = False) -> None:
    """Make sure that nothing but an earlier result of one kind is written over."""
    earlier = folder / RESULT
    if earlier.is_file():
        found = read_json(earlier)
        if isinstance(found, dict) and found.get("kind") == kind:
            return
        if allowed is not None:
            refuse("out", str(folder), allowed)
    check(folder, {}, resume=False, held=held)
