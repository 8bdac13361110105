"""Finished cells of several folders of one study, brought together in one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from natsel.common.errors import refuse
from natsel.common.files import is_temporary, replacing
from natsel.common.json_data import read_object
from natsel.runs.folder import CONFIG, differing, plain, take
from natsel.runs.places import Place
from natsel.runs.trained import CHECKPOINT


def read_config(folder: Path, *, argument: str) -> dict[str, Any]:
    """Return the configuration of the study that a folder holds.

    Raises:
        ValueError: if there is none.
    """
    if not (folder / CONFIG).is_file():
        refuse(argument, str(folder), f"the folder of a study, with its {CONFIG}")
    return read_object(folder / CONFIG)


def check_same(folder: Path, config: Mapping[str, Any], *, argument: str) -> None:
    """Make sure that a folder is one of a study.

    Raises:
        ValueError: if it is none, or is of another study.
    """
    held = read_config(folder, argument=argument)
    if held != plain(config):
        told = differing(held, plain(config))
        refuse(argument, str(folder), f"a folder of the same study; it is of another{told}")


def take_over(source: Path, target: Path, config: Mapping[str, Any], *, argument: str) -> None:
    """Copy the finished cells of a folder of the same study; what is there already stays.

    Args:
        source: is read; links in it are not followed.
        target: is added to.
        config: of the study.
        argument: what messages call ``source``.

    Raises:
        ValueError: if it is no folder of this very study, a cell of it is damaged, or it was made
            with other networks.
    """
    check_same(source, config, argument=argument)
    for path in _cells(source):
        copy = target / path.relative_to(source)
        if path.suffix == ".json":
            found = read_object(path)
            if copy.is_file() and read_object(copy).get("digest") != found.get("digest"):
                allowed = f"one with the same networks; {path} is of another than {copy}"
                refuse(argument, str(source), allowed)
        if not copy.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with replacing(copy) as temporary:
                shutil.copyfile(path, temporary)


def _cells(folder: Path) -> Iterator[Path]:
    """Return the files below a study's folders: cells and networks, tables not."""
    # From the bottom, so that a result, which says that the rest is there, comes last.
    for where, _, names in os.walk(folder, topdown=False):
        inside = Path(where)
        if inside == folder:
            continue
        for name in sorted(names, key=lambda name: (name.endswith(".json"), name)):
            path = inside / name
            if name != CHECKPOINT and not path.is_symlink() and not is_temporary(path):
                yield path


def begin(folder: Path, config: Mapping[str, Any], place: Place) -> None:
    """Take a folder that is held for a study, with the cells that it goes on after.

    Args:
        folder: see :func:`natsel.runs.folder.claim`.
        config: everything that decides the outcome.
        place: where its cells run.

    Raises:
        ValueError: if ``place.after`` is no folder of this study; nothing is written then.
    """
    if place.after is not None:
        check_same(place.after, config, argument="after")
    take(folder, config)
    if place.after is not None:
        take_over(place.after, folder, config, argument="after")
