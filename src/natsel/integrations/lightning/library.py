"""Which of its two packages Lightning is used from."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from natsel.common.extras import MissingExtraError, require

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""The same library under two names."""


def library() -> Any:
    """Return the package that is imported already, else the one that is installed.

    Raises:
        MissingExtraError: if neither is installed.
    """
    imported = [name for name in PACKAGES if sys.modules.get(name) is not None]
    for name in imported or PACKAGES:
        with contextlib.suppress(MissingExtraError):
            return require(name, "lightning")
    return require(PACKAGES[0], "lightning")
