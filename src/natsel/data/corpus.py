"""Texts of any source as documents: files, named sets, the hub, and a user's own functions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from natsel.common.errors import did_you_mean, first_line, refuse
from natsel.common.extras import require
from natsel.common.importing import check_call, imported, made, names_own
from natsel.data.text import TEXTS, raw_text

HUB = "hub:"
FIELD = "text"
LIMIT = 2**24
"""Characters that are read of one source at most, unless more are asked for."""

MAX_ELEMENTS = 2**28
"""Numbers that are read of batches at most, a gigabyte of float32."""

OWN = "a function of no arguments that returns an iterable of batches, or of texts"

TENTHS = 10
"""A named set without splits keeps the last of so many equal parts as its held-out one."""

FILES = ".txt, .jsonl or .parquet file"
FORMS = f"{FILES}, one of {', '.join(TEXTS)}, {HUB}NAME or module:name"


@dataclass(frozen=True, eq=False)
class Corpus:
    """What a source holds: documents, or batches that were made elsewhere.

    Attributes:
        source: what the user called it.
        documents: its texts, in order; empty where it yields batches.
        batches: of a user's own loader, as it yields them; empty where it holds texts.
        path: the file it was read from, if it was one.
    """

    source: str
    documents: tuple[str, ...] = ()
    batches: tuple[Any, ...] = ()
    path: Path | None = None

    def __repr__(self) -> str:
        what = "documents" if self.documents else "batches"
        return f"Corpus({self.source!r}: {len(self.documents) or len(self.batches)} {what})"


def names_text(source: str) -> bool:
    """Tell whether a name can only mean text: a file of a text format, or one on the hub.

    Example:
        >>> [names_text(s) for s in ("notes.txt", "hub:wikitext", "digits", "mine:loader")]
        [True, True, False, False]
    """
    return source.startswith(HUB) or Path(source).suffix.lower() in READERS or _is_file(source)


def read_corpus(
    source: str | Path, *, argument: str = "data", held_out: bool = False, limit: int = LIMIT
) -> Corpus:
    """Read the documents of a source.

    Args:
        source: a ``.txt`` file (one document), a ``.jsonl`` or ``.parquet`` file (its field or
            column ``text``), the name of a set, ``hub:NAME`` or ``hub:NAME:CONFIG`` of a data set
            on the Hugging Face hub, or ``module:name`` of an iterable, or of a function of no
            arguments that returns one, of strings or of batches.
        argument: the name the caller used, for messages.
        held_out: read what is to be measured on: the test split of a set on the hub, the last
            tenth of a named set. Otherwise the training split, or all but that tenth. A file is
            read the same way for both.
        limit: how many characters are read at most, from the beginning.

    Returns:
        At least one document or batch.

    Raises:
        ValueError: if there is no such source, it is empty or damaged, or has no field ``text``.
        MissingExtraError: if a library of the extra ``data`` is needed and not installed.

    Example:
        >>> read_corpus("nowhere.txt")
        Traceback (most recent call last):
        ValueError: data='nowhere.txt' is not allowed: expected a file that is there
    """
    name = str(source)
    if name.startswith(HUB):
        return Corpus(name, _taken(argument, name, _hub(argument, name, held_out), limit))
    if _is_file(name) or Path(name).suffix.lower() in READERS:
        path = Path(name)
        documents = _taken(argument, name, _file(argument, path, limit), limit)
        return Corpus(name, documents, path=path)
    if name in TEXTS:
        whole = raw_text(name)
        edge = len(whole) * (TENTHS - 1) // TENTHS
        part = whole[edge:] if held_out else whole[:edge]
        return Corpus(name, _taken(argument, name, iter([part]), limit))
    if names_own(name):
        return _own(argument, name, limit)
    refuse(argument, name, f"a {FORMS}{did_you_mean(name, TEXTS)}")


def _file(argument: str, path: Path, limit: int) -> Iterator[str]:
    if not path.exists():
        refuse(argument, str(path), "a file that is there")
    if not path.is_file():
        refuse(argument, str(path), f"a {FORMS}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        refuse(argument, str(path), f"a {FORMS}")
    try:
        yield from reader(argument, path, limit)
    except UnicodeDecodeError as error:
        refuse(argument, str(path), f"text in UTF-8 ({error.reason} at byte {error.start})")
    except OSError as error:
        refuse(argument, str(path), f"a file that can be read ({error.strerror})")


def _plain(argument: str, path: Path, limit: int) -> Iterator[str]:
    # Line ends stay as they are, as everywhere else; a byte order mark is none of the text.
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield file.read(limit)


def _lines(argument: str, path: Path, limit: int) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                # The library's message counts lines of its own.
                told = error.msg if isinstance(error, json.JSONDecodeError) else first_line(error)
                refuse(argument, str(path), f"one JSON object a line (line {number}: {told})")
            yield _field(argument, str(path), row, f"line {number}")


def _columns(argument: str, path: Path, limit: int) -> Iterator[str]:
    parquet = require("pyarrow.parquet", "data")
    arrow = require("pyarrow", "data")
    try:
        with parquet.ParquetFile(path) as file:
            found = file.schema_arrow.names
            if FIELD not in found:
                refuse(argument, str(path), f"a column {FIELD!r}, it has {', '.join(found)}")
            for batch in file.iter_batches(columns=[FIELD], batch_size=1000):
                for place, text in enumerate(batch.column(0).to_pylist()):
                    yield _field(argument, str(path), {FIELD: text}, f"row {place}")
    except arrow.ArrowException as error:
        refuse(argument, str(path), f"a parquet file that can be read ({first_line(error)})")


READERS: dict[str, Callable[[str, Path, int], Iterator[str]]] = {
    ".txt": _plain,
    ".jsonl": _lines,
    ".parquet": _columns,
}


def _hub(argument: str, name: str, held_out: bool) -> Iterator[str]:
    datasets = require("datasets", "data")
    wanted, _, config = name.removeprefix(HUB).partition(":")
    try:
        splits = datasets.load_dataset(wanted, config or None, streaming=True)
        order = ("test", "validation", "train") if held_out else ("train",)
        split = next((s for s in order if s in splits), next(iter(splits)))
        rows = iter(splits[split])
        first = next(rows, None)
    # The client raises errors of several libraries; each of them means "not from there".
    except Exception as error:  # noqa: BLE001
        told = f"{type(error).__name__}: {first_line(error)}"
        refuse(argument, name, f"a data set that the Hugging Face hub gives ({told})")
    for number, row in enumerate(itertools.chain([first] if first is not None else [], rows)):
        yield _field(argument, name, row, f"row {number}")


def _field(argument: str, name: str, row: Any, where: str) -> str:
    if not isinstance(row, Mapping) or FIELD not in row:
        given = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        refuse(argument, name, f"a field {FIELD!r} in every row ({where} has {given or 'none'})")
    text = row[FIELD]
    if not isinstance(text, str):
        kind = type(text).__name__
        refuse(argument, name, f"a text in every field {FIELD!r} ({where} holds {kind})")
    return text


def _taken(argument: str, name: str, found: Iterator[str], limit: int) -> tuple[str, ...]:
    """Return documents that are not empty, up to a number of characters."""
    documents: list[str] = []
    left = limit
    for document in found:
        if "\0" in document:
            refuse(argument, name, "text in UTF-8 (it holds a zero byte)")
        if document.strip():
            documents.append(document[:left])
            left -= len(documents[-1])
        if left <= 0:
            break
    if not documents:
        refuse(argument, name, "a text that is not empty")
    return tuple(documents)


def _own(argument: str, name: str, limit: int) -> Corpus:
    found: Any = imported(argument, name)
    if isinstance(found, type) or not isinstance(found, Iterable):
        check_call(argument, name, found)
        call = found
    else:
        call = partial(iter, found) if not isinstance(found, str) else lambda: [found]
    taken = made(argument, name, lambda: _some(call(), limit))
    if taken is None:
        refuse(argument, name, OWN)
    if not taken:
        refuse(argument, name, f"{OWN}, at least one")
    texts = [isinstance(each, str) for each in taken]
    if any(texts) and not all(texts):
        refuse(argument, name, "strings alone, or batches alone")
    if any(texts):
        return Corpus(name, _taken(argument, name, iter(taken), limit))
    return Corpus(name, batches=tuple(taken))


def _some(found: Any, limit: int) -> list[Any] | None:
    """Return what there is until it is enough, for a loader may have no end; None for none."""
    if isinstance(found, str):
        return [found]
    if not isinstance(found, Iterable):
        return None
    taken: list[Any] = []
    left, room = limit, MAX_ELEMENTS
    for each in found:
        if isinstance(each, str):
            left -= len(each) or 1
        else:
            parts = each.values() if isinstance(each, Mapping) else each
            room -= sum(x.numel() for x in parts if isinstance(x, Tensor)) or 1
        if taken and (left < 0 or room < 0):
            break
        taken.append(each)
    return taken


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a name that is too long for a file
        return False


def same_text(first: Corpus, second: Corpus) -> bool:
    """Tell whether two sources are one: the same file, a link to it, or a copy.

    Example:
        >>> same_text(Corpus("a", ("one",)), Corpus("b", ("one",)))
        True
    """
    if first.path is not None and second.path is not None and first.path.samefile(second.path):
        return True
    return bool(first.documents) and first.documents == second.documents
