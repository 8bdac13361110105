"""Recorded figures, looked up by dotted path and printed so that page and file can be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from natsel.common.extras import require
from natsel.common.numbers import is_number
from natsel.report.formats import STYLES

MISSING = "–"


class Facts:
    """The content of result files, read-only, with every key optional.

    Args:
        root: parsed JSON.

    Example:
        >>> facts = Facts({"dense": {"accuracy": 0.984}})
        >>> facts.get("dense.accuracy")
        0.984
        >>> facts.get("dense.latency.64.median_ms") is None
        True
        >>> print(facts.number("dense.accuracy", "significant"))
        <data data-key="dense.accuracy" data-value="0.984" value="0.984">0.984</data>
    """

    def __init__(self, root: Any) -> None:
        self.root = root

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value at a dotted path, ``default`` where it is missing or null."""
        value = _walk(self.root, key.split("."))
        return default if value is None else value

    def real(self, key: str) -> float | None:
        """Return the finite number at a dotted path, else ``None``."""
        return as_real(self.get(key))

    def rows(self, key: str) -> list[dict[str, Any]]:
        """Return the list of objects at a dotted path; anything else counts as none."""
        value = self.get(key, [])
        return value if isinstance(value, list) and all(isinstance(r, dict) for r in value) else []

    def number(self, key: str, style: str = "plain") -> Any:
        """Print a recorded number in an element that carries its exact value and its path."""
        markup = require("markupsafe", "report").Markup
        value = self.get(key)
        if not is_number(value):
            return markup(MISSING)
        text = STYLES[style](value) if math.isfinite(value) else "not finite"
        return markup('<data data-key="{}" data-value="{}" value="{}">{}</data>').format(
            key, json.dumps(value), json.dumps(value), text
        )

    def leaves(self, key: str) -> Iterator[tuple[str, Any]]:
        """Yield every (dotted path, leaf) under a dotted path, in the order of the file."""
        value = self.get(key)
        if value is not None:
            yield from _leaves(key, value)

    def show(self, key: str) -> Any:
        """Print any leaf: numbers as :meth:`number` does, the rest as text to be escaped."""
        value = self.get(key)
        if is_number(value):
            return self.number(key)
        if isinstance(value, bool):
            return "yes" if value else "no"
        return MISSING if value is None else str(value)


def as_real(value: Any) -> float | None:
    """Return a finite number as float, anything else as ``None``."""
    return float(value) if is_number(value) and math.isfinite(value) else None


def _walk(value: Any, parts: list[str]) -> Any:
    if not parts:
        return value
    if isinstance(value, list):
        is_index = parts[0].isdecimal() and int(parts[0]) < len(value)
        return _walk(value[int(parts[0])], parts[1:]) if is_index else None
    if isinstance(value, dict):
        # A name may itself hold dots: the longest one that leads somewhere is meant.
        for end in range(len(parts), 0, -1):
            name = ".".join(parts[:end])
            if name in value:
                return _walk(value[name], parts[end:])
    return None


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(f"{key}.{index}", item)
    else:
        yield key, value
