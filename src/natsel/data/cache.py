"""Decoded images, kept between runs: a damaged or missing cache costs time and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from natsel.common.files import load_tree, save_tree, sweep

HOUR = 3600.0


def key(files: Mapping[str, Path]) -> str:
    """Hash the content of files, so that a cache never outlives what it was made from.

    Args:
        files: the files by split.

    Returns:
        A hexadecimal digest.
    """
    digest = hashlib.sha256(b"layout 1")
    for split, path in sorted(files.items()):
        with path.open("rb") as file:
            digest.update(split.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read(name: str, key: str) -> dict[str, Tensor] | None:
    """Read the decoded tensors of a data set.

    Args:
        name: the data set.
        key: the digest of its files.

    Returns:
        The tensors by field, or None if they are not there whole.
    """
    try:
        tensors: dict[str, Tensor] = load_tree(_path(name, key))
    except (OSError, ValueError):
        return None
    return tensors


def write(name: str, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Keep the decoded tensors of a data set, if the folder can be written.

    Args:
        name: the data set.
        key: the digest of its files.
        tensors: the tensors by field.
    """
    path = _path(name, key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Nobody takes so long for one file: whoever began it was killed.
        sweep(path.parent, seconds_old=HOUR)
        save_tree(path, tensors)


def _path(name: str, key: str) -> Path:
    folder = os.environ.get("NATSEL_CACHE") or Path.home() / ".cache" / "natsel"
    return Path(folder) / f"{name}-{key}.safetensors"
