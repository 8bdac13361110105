"""Where a search stands, kept in a folder: a killed one goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from natsel.common.errors import refuse
from natsel.common.files import read_json, write_json
from natsel.common.folders import make_folder
from natsel.common.locks import hold

STATE = "levels.json"


class Folder:
    """A folder with the state of one search; of None, nothing is kept.

    Args:
        path: of the folder, made where it is not there.
        told: everything that decides the outcome of the search.
    """

    def __init__(self, path: str | Path | None, told: Mapping[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        self._told = dict(told)

    @contextmanager
    def held(self) -> Iterator[Mapping[str, Any] | None]:
        """Hold the folder for a while; lends the state that it has, None if there is none.

        Raises:
            ValueError: if it holds another search, or another process uses it.
        """
        if self._path is None:
            yield None
            return
        make_folder(self._path, "cache")
        with hold(self._path, argument="cache"):
            yield self._read()

    def write(self, state: Mapping[str, Any]) -> None:
        """Keep a state, whole or not at all."""
        if self._path is not None:
            write_json(self._path / STATE, {"told": self._told, "state": dict(state)})

    def _read(self) -> Mapping[str, Any] | None:
        assert self._path is not None
        if not (self._path / STATE).exists():
            return None
        found = read_json(self._path / STATE)
        told = found.get("told") if isinstance(found, dict) else None
        if not isinstance(told, dict) or not isinstance(found.get("state"), dict):
            refuse("cache", str(self._path), f"a folder whose {STATE} is of a search, or none")
        if told != self._told:
            other = next(k for k in (*self._told, *told) if told.get(k) != self._told.get(k))
            refuse("cache", str(self._path), f"a folder of this very search: {other} differs")
        state: Mapping[str, Any] = found["state"]
        return state
