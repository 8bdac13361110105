"""What lies beside a model in its folder: tokenizer, processors, chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from natsel.common.files import write_atomic
from natsel.common.folders import seal_of
from natsel.extraction.plan import Plan
from natsel.extraction.store import PLAN_FILE, is_saved

FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "spm.model"),
    *("sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "target.spm", "bpe.codes"),
    *("normalizer.json", "tekken.json", "dict.txt", "spm_char.model", "entity_vocab.json"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("audio_tokenizer_config.json", "chat_template.jinja", "chat_template.json"),
)
"""The names that go along, and no others."""

MAX_BYTES = 256 * 2**20
KEY = "beside"


def beside(model: Any) -> dict[str, Path]:
    """Return the files that belong to a model, from the folder that it was read from.

    Args:
        model: of the transformers library; it knows its folder as ``name_or_path``.

    Returns:
        Plain files by name, none where it was not read from a folder that is there.
    """
    name = getattr(model, "name_or_path", None)
    if not isinstance(name, str) or not name or not _is_of(Path(name), model):
        return {}
    found = {file: Path(name) / file for file in FILES}
    return {file: path for file, path in found.items() if _is_own(path)}


def _is_of(folder: Path, model: Any) -> bool:
    """Say whether a folder holds a model of the same kind, and is not only called as one is."""
    path = folder / "config.json"
    try:
        data = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("model_type") == model.config.model_type


def _is_own(path: Path) -> bool:
    """Say whether a file is in its folder itself: a link may lead to anything on this machine."""
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return False
    if not path.is_symlink():
        return True
    # The cache of the Hub keeps the content of its snapshots in one folder.
    snapshots = path.parent.resolve().parent
    return snapshots.name == "snapshots" and path.resolve().parent == snapshots.parent / "blobs"


def carry(model: nn.Module, folder: Path, before: Mapping[str, str]) -> None:
    """Copy what lies beside a model to where it was saved.

    Args:
        model: that was saved.
        folder: where; files there that are somebody else's, or were changed since, stay.
        before: what an earlier save copied there, by name, see :func:`carried`.
    """
    files = beside(model)
    for name in (*files, *(n for n in before if n not in files)):
        target = folder / name
        if os.path.lexists(target):
            if target.is_symlink() or name not in before or seal_of(target).sha256 != before[name]:
                continue
            if name not in files:
                target.unlink()
        if name in files and not (target.exists() and target.samefile(files[name])):
            write_atomic(target, files[name].read_bytes())


def seals(model: nn.Module) -> dict[str, str]:
    """Return the SHA-256 of each file that :func:`carry` copies, for the plan."""
    return {name: seal_of(path).sha256 for name, path in beside(model).items()}


def carried(folder: Path) -> dict[str, str]:
    """Return what the plan in a folder says that was copied there.

    Raises:
        ValueError: if there is a plan that is damaged.
    """
    if not is_saved(folder):
        return {}
    path = folder / PLAN_FILE
    found = (Plan.from_json(path.read_bytes(), str(path)).constructor or {}).get(KEY, {})
    if not isinstance(found, dict):
        return {}
    return {n: seal for n, seal in found.items() if n in FILES and isinstance(seal, str)}
