"""Which of its two packages Lightning is used from."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from natsel.common.extras import require

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""The same library under two names."""


def library() -> Any:
    """Return the package that is imported already, else the one that is installed.

    Raises:
        MissingExtraError: if neither is installed.
    """
    for name in PACKAGES:
        if name in sys.modules:
            return sys.modules[name]
    there = (n for n in PACKAGES if importlib.util.find_spec(n.split(".")[0]) is not None)
    return require(next(there, PACKAGES[0]), "lightning")
