"""Several files of one folder replaced together: a reader sees all old ones or all new ones."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from natsel.common.errors import refuse
from natsel.common.files import is_temporary, write_atomic

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
    held: Mapping[str, Sealed],
) -> None:
    """Write files so that the replacement of one file, the manifest, makes all of them valid.

    Every file is first written under a name made of its content, and is on the disk before the
    manifest that lists it takes the old one's place. Until then :func:`locate` finds the old
    files, from then on the new ones, also if the process is killed before they have their final
    names. Files that are not named here are left alone.

    Args:
        folder: where to; it is made if it is not there.
        writers: file name to a function that writes the content to a path.
        manifest: name of the file that lists the others.
        seal: from what was written to the content of the manifest.
        held: what the manifest that is there lists; what is not written again is removed.

    Raises:
        ValueError: if the folder is no folder, or holds a file of such a name that the manifest
            does not list.
        OSError: if something cannot be written; the old files are then untouched.
    """
    created = _make(folder)
    pending: dict[str, Path] = {}
    made: list[Path] = []
    content = None
    try:
        for name in writers:
            if os.path.lexists(folder / name) and name not in held:
                refuse("folder", str(folder), f"a folder whose {name} was saved by natsel")
        _finish(folder, manifest, held)
        sealed = {}
        for name, write in writers.items():
            made.append(folder / f".{name}.{secrets.token_hex(6)}{_PENDING}")
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
            for path in created:
                with contextlib.suppress(OSError):
                    path.rmdir()
        raise
    _sync(folder)
    for name, path in pending.items():
        os.replace(path, folder / name)
    for name in held.keys() - writers.keys():
        (folder / name).unlink(missing_ok=True)
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
        if path.is_file() and path.stat().st_size == sealed.bytes and seal_of(path) == sealed:
            return path
    if not (folder / name).is_file():
        refuse("folder", str(folder), f"a folder with {name}")
    raise ValueError(f"{folder / name} is damaged: it is not the file that was saved")


def seal_of(path: Path) -> Sealed:
    """Return the length and the SHA-256 of a file; it is never in memory as a whole."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Sealed(file.tell(), digest)


def _make(folder: Path) -> list[Path]:
    """Make a folder; return what was made, the innermost first."""
    missing = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
    nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not nearest.is_dir():
        refuse("folder", str(folder), f"a folder, but {nearest} is none")
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _pending(folder: Path, name: str, sealed: Sealed) -> Path:
    return folder / f".{name}.{sealed.sha256[:12]}{_PENDING}"


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _finish(folder: Path, manifest: str, held: Mapping[str, Sealed]) -> None:
    """Finish a save that was killed after its manifest was there; clear up after one before."""
    for name, sealed in held.items():
        path = _pending(folder, name, sealed)
        if path.is_file():
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
