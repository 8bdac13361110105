"""Several files of one folder replaced together: a reader sees all old ones or all new ones."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from natsel.common.errors import refuse
from natsel.common.files import is_temporary, write_atomic
from natsel.common.interrupts import clearing_up
from natsel.common.locks import hold
from natsel.common.writing import writing

PATIENCE = 10.0
"""Seconds that a save waits for another one in the same folder."""

_PENDING = ".pending"


@dataclass(frozen=True)
class Sealed:
    """What a file must be: its length in bytes and its SHA-256."""

    bytes: int
    sha256: str


def replace_together(
    folder: Path,
    writers: Mapping[str, Callable[[Path], object]],
    manifest: str,
    seal: Callable[[Mapping[str, Sealed]], bytes],
    *,
    held: Callable[[], Mapping[str, Sealed]],
) -> None:
    """Write files so that the replacement of one file, the manifest, makes all of them valid.

    Every file is first written under a name made of its content, and is on the disk before the
    manifest that lists it takes the old one's place. Until then :func:`locate` finds the old
    files, from then on the new ones, also if the process is killed before they have their final
    names. Files that are not named here are left alone, and so is every file that is not the one
    that the manifest describes: a manifest may come from elsewhere. Of two processes that write at
    once, one waits.

    Args:
        folder: where to; it is made if it is not there.
        writers: file name to a function that writes the content to a path.
        manifest: name of the file that lists the others.
        seal: from what was written to the content of the manifest.
        held: returns what the manifest that is there lists; what is not written again is removed.

    Raises:
        ValueError: if the folder is no folder, holds a file of such a name that is not the one
            that the manifest lists, or another process writes to it for long.
        OSError: if something cannot be written; the old files are then untouched.
    """
    with clearing_up():
        created = make_folder(folder)
        try:
            with hold(folder, argument="folder", wait=PATIENCE):
                _replace(folder, writers, manifest, seal, held())
        except BaseException:
            remove_empty(created)
            raise


def check_replaceable(
    folder: Path,
    names: Iterable[str],
    held: Mapping[str, Sealed],
    *,
    argument: str = "folder",
) -> None:
    """Make sure that files of some names may be written; nothing is changed.

    Args:
        folder: where.
        names: of the files.
        held: what the manifest that is there lists.
        argument: what the caller calls the folder.

    Raises:
        ValueError: if there is another file of such a name than the one that the manifest lists.
    """
    for name in names:
        if not os.path.lexists(folder / name):
            continue
        if name not in held:
            refuse(argument, str(folder), f"a folder whose {name} was saved by natsel")
        if not (_is(folder / name, held[name]) or _is_half_saved(folder, name, held[name])):
            allowed = f"a folder whose {name} is the one that was saved there: move it away"
            refuse(argument, str(folder), allowed)


def _replace(
    folder: Path,
    writers: Mapping[str, Callable[[Path], object]],
    manifest: str,
    seal: Callable[[Mapping[str, Sealed]], bytes],
    held: Mapping[str, Sealed],
) -> None:
    pending: dict[str, Path] = {}
    made: list[Path] = []
    content = None
    try:
        check_replaceable(folder, writers, held)
        _finish(folder, manifest, held, writers)
        sealed = {}
        for name, write in writers.items():
            made.append(folder / f".{name}.{secrets.token_hex(6)}{_PENDING}")
            with writing(folder / name):
                _write(made[-1], write)
            sealed[name] = seal_of(made[-1])
            pending[name] = _pending(folder, name, sealed[name])
            made.append(pending[name])
            os.replace(made[-2], made[-1])
        content = seal(sealed)
        _sync(folder)
        write_atomic(folder / manifest, content)
    except BaseException:
        # An interrupt may come between the replacement and the return from it.
        if content is None or not _holds(folder / manifest, content):
            for path in made:
                path.unlink(missing_ok=True)
        raise
    _sync(folder)
    for name, path in pending.items():
        os.replace(path, folder / name)
    for name in held.keys() - writers.keys():
        if _is(folder / name, held[name]):
            (folder / name).unlink()
    _sync(folder)


def locate(folder: Path, name: str, sealed: Sealed) -> Path:
    """Find a file that a manifest lists, and check every byte of it.

    Args:
        folder: where.
        name: of the file.
        sealed: what the manifest says of it.

    Returns:
        Its path.

    Raises:
        ValueError: if it is missing, is no plain file, or is not the one that was sealed.
    """
    for path in (folder / name, _pending(folder, name, sealed)):
        if path.is_symlink():
            refuse("folder", str(folder), f"a folder with {name} as a plain file, not a link")
        if _is(path, sealed):
            return path
    if not (folder / name).is_file():
        refuse("folder", str(folder), f"a folder with {name}")
    raise ValueError(f"{folder / name} is damaged: it is not the file that was saved")


def seal_of(path: Path) -> Sealed:
    """Return the length and the SHA-256 of a file; it is never in memory as a whole."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Sealed(file.tell(), digest)


def make_folder(folder: Path, argument: str = "folder") -> list[Path]:
    """Make a folder; return what was made, the innermost first.

    Raises:
        ValueError: if a file is in its place or above.
        OSError: if it cannot be made; nothing is left of it then.
    """
    missing = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
    nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not nearest.is_dir():
        refuse(argument, str(folder), f"a folder, but {nearest} is none")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except BaseException:
        remove_empty(missing)
        raise
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, unless something is in them."""
    for path in folders:
        with contextlib.suppress(OSError):
            path.rmdir()


def _is(path: Path, sealed: Sealed) -> bool:
    """Say whether a file is the one that was sealed."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != sealed.bytes:
        return False
    return seal_of(path) == sealed


def _is_half_saved(folder: Path, name: str, sealed: Sealed) -> bool:
    """Say whether a save was killed before its file took the place of an older one."""
    is_plain = (folder / name).is_file() and not (folder / name).is_symlink()
    return is_plain and _is(_pending(folder, name, sealed), sealed)


def _pending(folder: Path, name: str, sealed: Sealed) -> Path:
    return folder / f".{name}.{sealed.sha256[:12]}{_PENDING}"


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _finish(
    folder: Path, manifest: str, held: Mapping[str, Sealed], names: Collection[str]
) -> None:
    """Finish a save that was killed after its manifest was there; clear up after one before."""
    for name, sealed in held.items():
        path = _pending(folder, name, sealed)
        # Under a name that no save would write now, there may be a file of the user's.
        is_free = name in names or not os.path.lexists(folder / name)
        if is_free and _is(path, sealed):
            os.replace(path, folder / name)
    half_written = (p for p in folder.glob(f".{manifest}.*") if is_temporary(p))
    for path in (*folder.glob(f".*{_PENDING}"), *half_written):
        path.unlink(missing_ok=True)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    # Some writers would leave the file private.
    path.touch(exist_ok=False)
    mode = path.stat().st_mode
    write(path)
    path.chmod(mode)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
