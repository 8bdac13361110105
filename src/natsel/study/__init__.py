"""The former home of `natsel.runs` and `natsel.auditing`: their names, with a warning."""

from __future__ import annotations

import importlib
from typing import Any

from natsel.common.deprecation import renamed

_NOW = {
    "Audit": "natsel.auditing",
    "audit": "natsel.auditing",
    "RunConfig": "natsel.runs",
    "evolve": "natsel.runs",
}


def __getattr__(name: str) -> Any:
    if name not in _NOW:
        raise AttributeError(f"module 'natsel.study' has no attribute {name!r}")
    renamed(f"natsel.study.{name}", f"{_NOW[name]}.{name}")
    return getattr(importlib.import_module(_NOW[name]), name)
