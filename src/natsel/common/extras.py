"""Optional dependencies: imported where they are needed, named when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingExtraError(ImportError):
    """A library of an optional extra is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import a library that only some users need.

    Args:
        module: the importable name.
        extra: the extra of natsel that installs it.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: with the pip line that installs it.

    Example:
        >>> require("no_such_library", "report")
        Traceback (most recent call last):
        natsel.common.extras.MissingExtraError: no_such_library is not installed: pip install 'natsel[report]'
    """  # noqa: E501
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        name = module.split(".")[0]
        raise MissingExtraError(f"{name} is not installed: pip install 'natsel[{extra}]'") from None
