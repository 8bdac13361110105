"""A folder belongs to one run: looked at before any work, taken once the work can start."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from natsel.common.errors import refuse
from natsel.common.files import is_temporary, read_json, sweep, write_json

CONFIG = "config.json"


def check(folder: Path, config: Mapping[str, Any], resume: bool) -> None:
    """Make sure that a run may have a folder; nothing is written.

    Args:
        folder: new, empty, or with ``resume`` one that holds this very run.
        config: everything that decides the outcome of the run.
        resume: go on with what the folder holds.

    Raises:
        ValueError: if it is no folder or cannot be written, holds anything else, or holds this
            run and ``resume`` is not asked.
    """
    nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not nearest.is_dir():
        refuse("out", str(folder), f"a folder, but {nearest} is none")
    mine = folder / CONFIG
    if mine.is_file():
        held = read_json(mine)
        wanted = json.loads(json.dumps(config))
        if held != wanted:
            other = f"this one holds another run{_by(held, wanted)}"
            refuse("out", str(folder), f"a new folder: {other}")
        if not resume:
            refuse("out", str(folder), "a new folder, or --resume to go on with this run")
        return
    if nearest == folder and not all(is_temporary(p) for p in folder.iterdir()):
        refuse("out", str(folder), "a new or empty folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        refuse("out", str(folder), f"a folder that can be written, but {nearest} cannot")


def take(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the configuration into a folder that was checked; what a killed run left half goes.

    Raises:
        ValueError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        if not (folder / CONFIG).is_file():
            write_json(folder / CONFIG, dict(config))
    except OSError as error:
        refuse("out", str(folder), f"a folder that can be written ({error.strerror})")


def _by(held: Any, wanted: Mapping[str, Any]) -> str:
    """Say which settings differ."""
    if not isinstance(held, dict):
        return ""
    names = sorted(k for k in {*held, *wanted} if held.get(k) != wanted.get(k))
    return f" (of other {', '.join(names)})"
