"""From which model another was made, as its card may say: names and hashes, no path."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from natsel.common.folders import seal_of
from natsel.common.json_data import read_json
from natsel.integrations.transformers.beside import source_folder

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)?")
MAX_CARD_BYTES = 2**20


def origin_of(model: Any) -> dict[str, Any]:
    """Return what is known of the model that one was read as.

    Args:
        model: of the transformers library.

    Returns:
        Of these what is stated: ``base_model`` (a name on the Hub), ``license``,
        ``license_name``, ``license_link`` and ``language``, as the card or the configuration there
        has them; ``sha256`` of the weights where there is no name; ``class`` of the model.
    """
    found: dict[str, Any] = {"class": type(model).__name__}
    folder = source_folder(model)
    stated = _stated(folder) if folder is not None else {}
    name = getattr(model, "name_or_path", "")
    if isinstance(name, str) and _is_hub_name(name) and not Path(name).exists():
        found["base_model"] = name
    elif _is_hub_name(stated.get("base_model")):
        found["base_model"] = stated["base_model"]
    elif folder is not None:
        for weights in ("model.safetensors", "model.safetensors.index.json"):
            if (folder / weights).is_file():
                found["sha256"] = seal_of(folder / weights).sha256
                break
    if isinstance(stated.get("license"), str) and _LICENSE.fullmatch(stated["license"]):
        found["license"] = stated["license"]
        for more in ("license_name", "license_link"):
            if found["license"] == "other" and isinstance(stated.get(more), str):
                found[more] = stated[more]
    languages = stated.get("language")
    languages = [languages] if isinstance(languages, str) else languages
    if isinstance(languages, list):
        known = [x for x in languages if isinstance(x, str) and _LANGUAGE.fullmatch(x)]
        if known:
            found["language"] = known
    return found


def _is_hub_name(name: object) -> bool:
    return isinstance(name, str) and _HUB_NAME.fullmatch(name) is not None and "." not in name[:1]


def _stated(folder: Path) -> dict[str, Any]:
    """Return what the card of a folder states, and what its configuration states besides."""
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        config = read_json(folder / "config.json", finite=False)
        if isinstance(config, dict):
            found = {k: config[k] for k in ("license", "license_name", "language") if k in config}
            name = config.get("_name_or_path")
            found |= {"base_model": name} if _is_hub_name(name) else {}
    card = folder / "README.md"
    # What a card holds is anything; one that cannot be read states nothing.
    with suppress(Exception):
        if card.is_file() and card.stat().st_size <= MAX_CARD_BYTES:
            found |= front_matter(card.read_text())
    return found


def front_matter(text: str) -> dict[str, Any]:
    """Return the data at the head of a model card; empty where there are none.

    Raises:
        Exception: as the library that reads them.

    Example:
        >>> front_matter("---\\nlicense: mit\\n---\\n# Words")
        {'license': 'mit'}
    """
    from huggingface_hub import ModelCard

    stated: Any = ModelCard(text, ignore_metadata_errors=True).data
    data = stated.to_dict()
    return {k: v for k, v in json.loads(json.dumps(data, default=str)).items() if v is not None}
