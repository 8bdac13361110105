"""A configuration from elsewhere is held against what is stored before it is built."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from natsel.common.budget import allowed_elements, within
from natsel.common.errors import refuse
from natsel.common.tensorfiles import described
from natsel.integrations.transformers.library import build, trusted

_LAYERS = {
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers"),
    *("encoder_layers", "decoder_layers", "num_encoder_layers"),
}
"""Each of these has tensors of its own in any model."""

_REPEATED = re.compile(r"layer|depth|block|stage|expert|repeat")
MAX_REPEATED = 4096
MAX_NUMBER = 2**24
"""Above the longest context of today; what is larger is no size, and no count of anything."""

_NO_SIZE = re.compile(r"theta|base|seed|scale|factor")


def check_numbers(data: Mapping[str, Any], num_tensors: int) -> None:
    """Refuse whole numbers that no model of so many tensors has, before anything follows them.

    Args:
        data: a configuration, as JSON has it.
        num_tensors: how many tensors are stored.

    Raises:
        ValueError: if there is one.

    Example:
        >>> check_numbers({"text_config": {"depths": [2, 10**9]}}, 40)
        Traceback (most recent call last):
        ValueError: config.json depths=1000000000 is not allowed: expected at most 4,096, as 40 tensors are stored
    """  # noqa: E501
    for name, value in numbers_in(trusted(data)):
        most = MAX_NUMBER
        if name in _LAYERS:
            most = num_tensors
        elif _REPEATED.search(name):
            most = max(num_tensors, MAX_REPEATED)
        elif _NO_SIZE.search(name):
            continue
        if value > most:
            allowed = f"at most {most:,}, as {num_tensors:,} tensors are stored"
            refuse(f"config.json {name}", value, allowed)


def check_size(kind: Any, data: Mapping[str, Any], num_tensors: int, num_elements: int) -> None:
    """Refuse a configuration that is far too large for what is stored, before it is built.

    Args:
        kind: a class of the library.
        data: the configuration.
        num_tensors: how many tensors are stored.
        num_elements: how many numbers they hold.

    Raises:
        ValueError: if it is, or it is of another class.
    """
    if data.get("model_type") != kind.config_class.model_type:
        allowed = f"{kind.config_class.model_type!r}, as {kind.__name__} has it"
        refuse("config.json model_type", data.get("model_type"), allowed)
    check_numbers(data, num_tensors)
    with within("config.json", tensors=num_tensors, elements=num_elements):
        model = build(kind, data, device="meta")
    dense = sum(p.numel() for p in (*model.parameters(), *model.buffers()))
    if dense > allowed_elements(num_elements):
        raise ValueError(f"config.json describes {dense:,} parameters, {num_elements:,} are stored")


def stored_in(folder: Path) -> tuple[int, int]:
    """Return how many tensors, and how many numbers at most, a folder of safetensors holds."""
    num_tensors = num_elements = 0
    for path in folder.glob("*.safetensors"):
        try:
            found = described(path)
        except ValueError:  # a type that only others know, of half a byte at least
            num_tensors += path.stat().st_size // 64
            num_elements += 2 * path.stat().st_size
            continue
        num_tensors += len(found)
        num_elements += sum(math.prod(entry["shape"]) for entry in found.values())
    return num_tensors, num_elements


def numbers_in(data: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield every whole number in a configuration with the name that it stands under."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from numbers_in(value, str(key))
    elif isinstance(data, list | tuple):
        for value in data:
            yield from numbers_in(value, name)
    elif isinstance(data, int):
        yield name, data
