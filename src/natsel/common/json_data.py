"""JSON that somebody else may have written: read within bounds, refused in one line."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 2**28
MAX_DEPTH = 100


def parse_json(content: bytes | str, name: str, *, finite: bool = True) -> Any:
    """Return what JSON holds.

    Args:
        content: the JSON.
        name: what to call it in messages.
        finite: refuse NaN and infinity, also as numbers too large for a float.

    Returns:
        The object it holds.

    Raises:
        ValueError: if it is damaged, larger than ``MAX_BYTES`` or nested deeper than
            ``MAX_DEPTH``.

    Example:
        >>> parse_json("[1e400]", "result.json")
        Traceback (most recent call last):
        ValueError: result.json is not valid JSON: 1e400 is no finite number
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"{name} is larger than {MAX_BYTES:,} bytes")
    checks: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _finite} if finite else {}
    try:
        found = json.loads(content, **checks)
    except RecursionError:
        raise ValueError(f"{name} is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both ValueError
        raise ValueError(f"{name} is not valid JSON: {error}") from None
    _check_depth(found, name)
    return found


def read_json(path: str | os.PathLike[str], *, finite: bool = True) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        finite: as in :func:`parse_json`.

    Returns:
        The object it holds.

    Raises:
        ValueError: if the file is damaged, see :func:`parse_json`; the message names it.
        FileNotFoundError: if there is no such file.
    """
    name, size = os.fspath(path), os.stat(path).st_size
    if size > MAX_BYTES:
        raise ValueError(f"{name} is larger than {MAX_BYTES:,} bytes")
    return parse_json(Path(path).read_bytes(), name, finite=finite)


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ValueError: if it is damaged, or holds anything else.
        FileNotFoundError: if there is no such file.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{os.fspath(path)} is damaged: it holds no JSON object")
    return found


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _check_depth(found: Any, name: str) -> None:
    """Refuse what functions that call themselves would not come to the end of."""
    level = [found] if isinstance(found, dict | list) else []
    for _ in range(MAX_DEPTH):
        inner = (x for node in level for x in (node.values() if isinstance(node, dict) else node))
        level = [node for node in inner if isinstance(node, dict | list)]
        if not level:
            return
    raise ValueError(f"{name} is nested deeper than {MAX_DEPTH} levels")
