"""Pretrained models by name or folder: safetensors only, and no code but that of the library."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from natsel.common.errors import first_line, refuse
from natsel.common.extras import require
from natsel.common.json_data import read_json
from natsel.common.logs import logger_of
from natsel.communities.surgery.adapters import adapt
from natsel.extraction.csr import CsrLinear
from natsel.integrations.model_card import CARD_FILE
from natsel.integrations.transformers.beside import FILES
from natsel.integrations.transformers.bounds import (
    MAX_REPEATED,
    check_numbers,
    check_size,
    stored_in,
)
from natsel.integrations.transformers.keeping import mark
from natsel.integrations.transformers.layers import refuse_ignored
from natsel.integrations.transformers.library import class_named, library, without_bars
from natsel.integrations.transformers.reshaped import Reshaped

PATHS = ("/", ".", "~")
"""How a path begins, and no name on the Hub does."""


def from_pretrained(name: str) -> nn.Module:
    """Read a pretrained model of the class that its configuration names.

    Args:
        name: a folder; or, where there is none and it is no path, a name on the Hugging Face Hub.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: if there is none, its class is not in the library, it has no safetensors, or
            its weights do not fit its configuration.
        MissingExtraError: if the transformers library is not installed.
    """
    transformers: Any = library()
    here = Path(name).is_dir()
    if not here and name.startswith(PATHS):
        refuse("model", name, "a folder that is there")
    if here:
        _check_numbers(Path(name))
    options = {"trust_remote_code": False, "local_files_only": here}
    try:
        with _without_retries():
            config = transformers.AutoConfig.from_pretrained(name, **options)
    # What can go wrong here comes from four libraries, each with errors of its own.
    except Exception as error:  # noqa: BLE001
        refuse("model", name, f"a folder or a name on the Hub ({first_line(error)})")
    record = getattr(config, "natsel", None)
    prefix = "Natsel" if record is not None else ""
    kinds = [class_named(k.removeprefix(prefix)) for k in config.architectures or ()]
    if not kinds or kinds[0] is None:
        found = ", ".join(config.architectures or ()) or "none"
        refuse("model", name, f"a model of a class in the transformers library, not {found}")
    stored = stored_in(Path(name)) if here else (0, 0)
    if stored[0]:  # where nothing is, the library says what it looks for
        check_size(kinds[0], config.to_dict(), *stored)
    kind = kinds[0]
    refuse_ignored(kind, json.loads(config.to_json_string(use_diff=False)))
    if record is not None:
        check_record(record)
        # What the code beside would do, without running it.
        made = {"natsel_adapt": staticmethod(adapt), "natsel_compressed": CsrLinear}
        kind = type(f"Natsel{kind.__name__}", (Reshaped, kind), made)
    try:
        # Reading a folder takes seconds; a download may take long, and shows it on a terminal.
        bars = nullcontext() if sys.stderr.isatty() and not here else without_bars()
        with bars, _without_reports():
            model, told = kind.from_pretrained(
                name, config=config, use_safetensors=True, output_loading_info=True, **options
            )
    except Exception as error:  # noqa: BLE001
        refuse("model", name, f"safetensors that fit its configuration ({first_line(error)})")
    missing = sorted([*told["missing_keys"], *(str(k[0]) for k in told["mismatched_keys"])])
    if missing:
        refuse("model", name, f"weights for {', '.join(missing[:3])} too")
    if not here:
        _fetch_beside(name, getattr(config, "_commit_hash", None))
    if record is not None:
        mark(model)
    found_model: nn.Module = model.eval()
    return found_model


def _fetch_beside(name: str, commit: str | None) -> None:
    """Have what lies beside a model on the Hub here, too: tokenizer, processors and card.

    The model can be used without; what saves it takes along what is there.
    """
    from huggingface_hub import snapshot_download

    wanted = [*FILES, CARD_FILE]
    try:
        with _without_retries(), without_bars():
            snapshot_download(name, revision=commit, allow_patterns=wanted)
    except Exception as error:  # noqa: BLE001 - of the Hub, of the network, of the disk
        logger_of(__name__).info("no tokenizer of %s: %s", name, first_line(error))


def _check_numbers(folder: Path) -> None:
    """Refuse a configuration that the library would not come to the end of."""
    path = folder / "config.json"
    data = read_json(path, finite=False) if path.is_file() else None
    if isinstance(data, dict):
        check_numbers(data, stored_in(folder)[0] or MAX_REPEATED)


@contextmanager
def _without_retries() -> Iterator[None]:
    """Keep the client of the Hub from a line for each time it tries again: one line is the end."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _without_reports() -> Iterator[None]:
    """Keep the library from a table of what does not fit: that is told in one line."""
    words = require("transformers.utils.logging", "transformers")
    before = words.get_verbosity()
    words.set_verbosity_error()
    try:
        yield
    finally:
        words.set_verbosity(before)


def check_record(record: object) -> None:
    """Refuse a record of shapes and numbers that is none: it is data from anywhere.

    Raises:
        ValueError: if something in it has another type.
    """

    def table(name: str) -> dict[str, Any]:
        held = record.get(name, {}) if isinstance(record, dict) else None
        if not isinstance(held, dict):
            refuse(f"config.json natsel {name}", type(held).__name__, "an object")
        return held

    def sizes(value: object) -> bool:
        return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)

    def number(value: object) -> bool:
        numbers = value if isinstance(value, list) else [value]
        return bool(numbers) and all(type(v) in (int, float) for v in numbers)

    for name, right in (("shapes", sizes), ("compressed", sizes), ("numbers", number)):
        for key, value in table(name).items():
            if not right(value) or (name == "compressed" and len(value) != 3):
                refuse(f"config.json natsel {name}", {key: value}, "sizes or numbers")
    buffers = record.get("buffers", []) if isinstance(record, dict) else None
    if not isinstance(buffers, list) or not all(isinstance(b, str) for b in buffers):
        refuse("config.json natsel buffers", buffers, "a list of names")
