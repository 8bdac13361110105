"""What a run has done so far: in memory, or in a folder from which another one goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from natsel.blockwise import Held, OnDisk, Store
from natsel.common.errors import refuse
from natsel.common.files import read_json, write_json

PROGRESS = "progress"


class Ledger:
    """Notes by name, and hidden states.

    Args:
        folder: where they are kept; in memory alone without.
        digest: of all arguments: another run's notes are none of this one's.

    Raises:
        ValueError: if the folder holds something else than notes of the same arguments.

    Example:
        >>> ledger = Ledger(None, "a")
        >>> ledger.note("progress", {"block": 3})
        >>> ledger.read("progress"), ledger.read("others")
        ({'block': 3}, None)
    """

    def __init__(self, folder: Path | None, digest: str) -> None:
        self._folder = folder
        self._notes: dict[str, Any] = {}
        self._stores: dict[str, Store] = {}
        if folder is None:
            return
        found = None
        if folder.is_dir() and any(folder.iterdir()):
            path = folder / "arguments.json"
            found = read_json(path) if path.is_file() else None
            if not isinstance(found, dict) or found.get("digest") != digest:
                allowed = "an empty folder, or one of a run with these very arguments"
                refuse("cache", str(folder), allowed)
        folder.mkdir(parents=True, exist_ok=True)
        if found is None:
            write_json(folder / "arguments.json", {"digest": digest})

    @property
    def lasts(self) -> bool:
        """Whether another process can go on."""
        return self._folder is not None

    def note(self, name: str, value: Any) -> None:
        """Write something down, in place of what stood there."""
        if self._folder is None:
            self._notes[name] = value
        else:
            write_json(self._folder / f"{name}.json", value)

    def read(self, name: str) -> Any:
        """Return what was written down; None if nothing was."""
        if self._folder is None:
            return self._notes.get(name)
        path = self._folder / f"{name}.json"
        return read_json(path) if path.is_file() else None

    def store(self, name: str) -> Store:
        """Return where hidden states of a name are."""
        if self._folder is not None:
            return OnDisk(self._folder / name)
        return self._stores.setdefault(name, Held())

    def forget(self, name: str) -> None:
        """Give up hidden states that nothing reads any more."""
        self._stores.pop(name, None)
        if self._folder is not None:
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder and all that was noted in it."""
        if self._folder is not None:
            shutil.rmtree(self._folder)
