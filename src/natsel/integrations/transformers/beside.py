"""What lies beside a model in its folder: tokenizer, processors, chat template."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from natsel.common.errors import refuse
from natsel.common.files import replacing
from natsel.common.folders import make_folder, remove_empty, seal_of
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


def source_folder(model: Any) -> Path | None:
    """Return the folder that a model was read from: one here, or what a download left.

    Args:
        model: of the transformers library; it knows its folder or name as ``name_or_path``.

    Returns:
        The folder; None where there is none, or it holds a model of another kind.
    """
    name = getattr(model, "name_or_path", None)
    if not isinstance(name, str) or not name:
        return None
    if Path(name).is_dir():
        return Path(name) if _is_of(Path(name), model) else None
    from huggingface_hub import try_to_load_from_cache

    commit = getattr(model.config, "_commit_hash", None)
    with suppress(ValueError):  # of what no name on the Hub is
        found = try_to_load_from_cache(name, "config.json", revision=commit)
        if isinstance(found, str) and _is_of(Path(found).parent, model):
            return Path(found).parent
    return None


def beside(model: Any) -> dict[str, Path]:
    """Return the files that belong to a model, from the folder that it was read from.

    Args:
        model: of the transformers library.

    Returns:
        Plain files by name, none where it was not read from a folder that is there.
    """
    folder = source_folder(model)
    found = {file: folder / file for file in FILES} if folder is not None else {}
    return {file: path for file, path in found.items() if _is_own(path)}


@contextmanager
def written(tokenizer: Any, model: nn.Module) -> Iterator[dict[str, Path]]:
    """Lend the files that a tokenizer or processor writes; no code is among them.

    Args:
        tokenizer: what has ``save_pretrained``.
        model: whose tokens it makes.

    Raises:
        ValueError: if it is no tokenizer, or has tokens that the model has no embedding for.
    """
    if not callable(getattr(tokenizer, "save_pretrained", None)):
        told = tokenizer if isinstance(tokenizer, str) else type(tokenizer).__name__
        refuse("tokenizer", told, "a tokenizer or processor of the transformers library")
    check_vocabulary(tokenizer, model)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        found = {file: Path(folder) / file for file in FILES}
        yield {file: path for file, path in found.items() if _is_own(path)}


def check_vocabulary(tokenizer: Any, model: Any) -> None:
    """Refuse a tokenizer with more tokens than a model has embeddings; fewer are usual.

    Raises:
        ValueError: with both numbers.
    """
    words = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    embed = getattr(model, "get_input_embeddings", None)
    try:
        num_tokens, rows = len(words), embed().weight.shape[0] if embed is not None else None
    except (
        TypeError,
        AttributeError,
        NotImplementedError,
    ):  # no tokens, or none that are looked up
        return
    if rows is not None and num_tokens > rows:
        told = f"a tokenizer of {num_tokens:,} tokens"
        refuse("tokenizer", told, f"at most {rows:,}, for which the model has embeddings")


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


@contextmanager
def carrying(
    files: Mapping[str, Path], folder: Path, before: Mapping[str, str], *, strict: bool = False
) -> Iterator[None]:
    """Copy files to where a model is saved, around the block that saves it.

    All of them are on the disk before the block begins, and take their names once it has ended: if
    either fails, nothing has changed.

    Args:
        files: what to copy, by name.
        folder: where; files there that are somebody else's, or were changed since, stay.
        before: what an earlier save copied there, by name, see :func:`carried`.
        strict: refuse where a file of somebody else's stays that differs.

    Raises:
        ValueError: if strict, and there is such a file.
        OSError: if something cannot be written.
    """
    written, removed = [], []
    for name in (*files, *(n for n in before if n not in files)):
        target = folder / name
        if os.path.lexists(target):
            if name in files and not target.is_symlink() and _same(target, files[name]):
                continue
            if target.is_symlink() or name not in before or seal_of(target).sha256 != before[name]:
                if strict and name in files:
                    allowed = f"a folder whose {name} was saved by natsel: move it away"
                    refuse("folder", str(folder), allowed)
                continue
            if name not in files:
                removed.append(target)
        if name in files:
            written.append(name)
    created = make_folder(folder) if written else []
    try:
        with ExitStack() as stack:
            for name in written:
                temporary = stack.enter_context(replacing(folder / name))
                temporary.write_bytes(files[name].read_bytes())
            yield
            for target in removed:
                target.unlink()
    except BaseException:
        remove_empty(created)
        raise


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and (one.samefile(other) or seal_of(one) == seal_of(other))


def seals(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of each file that :func:`carrying` copies, for the plan."""
    return {name: seal_of(path).sha256 for name, path in files.items()}


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
