"""Files of a folder as bytes, for a machine that does not share the disk."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from natsel.common.files import write_atomic


@dataclass(frozen=True)
class Parcel:
    """Files and their content.

    Attributes:
        name: of the folder or the single file.
        files: path below the folder to content; a single file has the path ``""``.
        digest: of all of it.
    """

    name: str
    files: dict[str, bytes]
    digest: str


def pack(path: Path, without: Collection[str] = ()) -> Parcel:
    """Return a file, or all plain files below a folder.

    Args:
        path: of the file or folder; links in it are not followed.
        without: names of files that are left out.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "a.txt").write_text("held")
        ...     pack(Path(folder)).files
        {'a.txt': b'held'}
    """
    if path.is_file():
        files = {"": path.read_bytes()}
    else:
        found = sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink())
        found = [p for p in found if p.name not in without]
        files = {p.relative_to(path).as_posix(): p.read_bytes() for p in found}
    seal = hashlib.sha256(path.name.encode())
    for name, content in files.items():
        seal.update(f"{len(name)} {name} {len(content)} ".encode())
        seal.update(content)
    return Parcel(path.name, files, seal.hexdigest())


def unpack(parcel: Parcel, target: Path) -> None:
    """Write a parcel; what was at its place is replaced, as a whole.

    Raises:
        ValueError: if a path of it leads out of the folder.
        OSError: if it cannot be written; what was there is then untouched.
    """
    if list(parcel.files) == [""]:
        write_atomic(target, parcel.files[""])
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as held:
        fresh = Path(held) / "fresh"
        fresh.mkdir()
        for name, content in parcel.files.items():
            relative = PurePosixPath(name)
            if relative.is_absolute() or ".." in relative.parts:
                raise ValueError(f"a parcel holds a path that leads out of it: {name!r}")
            path = fresh / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if target.exists():
            shutil.move(target, Path(held) / "old")
        fresh.replace(target)
