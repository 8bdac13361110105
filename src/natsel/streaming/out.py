"""The folder that a small model grows in: nothing in it loads before all of it is there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from natsel.common.batches import Data
from natsel.common.errors import refuse
from natsel.common.files import write_atomic
from natsel.common.folders import make_folder, remove_empty
from natsel.common.locks import LOCK, OWNER, hold
from natsel.common.shards import INDEX
from natsel.extraction.store import PLAN_FILE
from natsel.integrations.model_card import CARD_FILE
from natsel.integrations.transformers.beside import FILES
from natsel.integrations.transformers.pretrained import CODE_FILE, GENERATION_FILE
from natsel.integrations.transformers.streamed import CONFIG, Folder
from natsel.streaming.ledger import PROGRESS, Ledger

UNFINISHED = ".natsel-unfinished"
RESULT = "result.json"
_OWNER = "cache"
_WRITTEN = (CONFIG, INDEX, GENERATION_FILE, CODE_FILE, PLAN_FILE, CARD_FILE, RESULT, *FILES)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be; it is gone again if nothing was put there."""
    created = make_folder(folder, "out")
    try:
        with hold(folder, argument="out"):
            yield
    finally:
        remove_empty(created)


class Out:
    """The folder of the small model while it is made.

    Args:
        path: of it.
        ledger: what the run has done so far.
        cache: where that is kept, None in memory.

    Raises:
        ValueError: if the folder holds anything but what this run left there.
    """

    def __init__(self, path: Path, ledger: Ledger, cache: str | Path | None) -> None:
        self.path, self.unfinished, self._ledger = path, path / UNFINISHED, ledger
        goes_on = ledger.read(PROGRESS) is not None
        mine = "" if cache is None else str(Path(cache).absolute())
        if self.unfinished.is_dir():
            owner = self.unfinished / _OWNER
            theirs = owner.read_text() if owner.is_file() else ""
            if (
                theirs
                and (theirs != mine or not goes_on)
                and Path(theirs, "progress.json").is_file()
            ):
                allowed = f"a folder without an unfinished run (its notes are in {theirs})"
                refuse("out", str(path), allowed)
            if not goes_on:
                shutil.rmtree(self.unfinished)
        others = {p.name for p in path.iterdir()} - {LOCK, OWNER} if path.is_dir() else set()
        if others and not goes_on:
            refuse("out", str(path), "an empty folder, or one that is not there yet")
        self._made = make_folder(self.unfinished, "out")
        write_atomic(self.unfinished / _OWNER, mine.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None and not (self._ledger.lasts and self._ledger.read(PROGRESS)):
            # Nothing could go on from it.
            shutil.rmtree(self.unfinished, ignore_errors=True)
            # The folder was empty: what has such a name is from here.
            for path in (*self.path.glob("*.safetensors"), *(self.path / n for n in _WRITTEN)):
                path.unlink(missing_ok=True)
            remove_empty(self._made)

    def done(self) -> None:
        """Remove what was needed while the model was made."""
        shutil.rmtree(self.unfinished)


def digest_of(folder: Folder, data: Data | None, held_out: Data | None, *arguments: Any) -> str:
    """Return a digest of all that decides what comes out."""
    found = hashlib.sha256()
    for path in (folder.path / CONFIG, *folder.shards.files):
        state = path.stat()
        found.update(f"{path.absolute()} {state.st_size} {state.st_mtime_ns}\n".encode())
    found.update(repr([_plain(a) for a in arguments]).encode())
    both = (data if data is not None else ()), (held_out if held_out is not None else ())
    for batch in (*both[0], "held out", *both[1]):
        leaves, spec = tree_flatten(batch)
        found.update(str(spec).encode())
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
                raw = leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                found.update(raw.numpy().data)
            else:
                found.update(repr(leaf).encode())
    return found.hexdigest()


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps({str(k): _plain(v) for k, v in value.items()}, sort_keys=True)
    # The address of an object says nothing of what it is.
    return str(getattr(value, "__qualname__", None) or repr(value))
