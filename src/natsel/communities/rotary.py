"""Rotary frequencies that change with the length of the input (transformers): dynamic, longrope.

Beyond a length they are computed anew, from the configuration. Up to it they are the buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

GROWING = ("dynamic", "longrope")
ANEW = "its rotary frequencies are computed anew from the configuration where inputs are long"


def growing(model: nn.Module) -> list[str]:
    """Return the paths of the modules whose frequencies change with the length of the input.

    Example:
        >>> growing(nn.Linear(2, 2))
        []
    """
    return [path for path, module in model.named_modules() if _grows(module)]


def _grows(module: Any) -> bool:
    kinds = vars(module).get("rope_type")
    each = kinds.values() if isinstance(kinds, dict) else (kinds,)
    return any(isinstance(kind, str) and kind.startswith(GROWING) for kind in each)


@contextmanager
def without_growth(model: nn.Module) -> Iterator[None]:
    """Let frequencies be the buffer that they are, whatever comes: no code asks for lengths."""
    taken: list[tuple[Any, Any]] = []
    for path in growing(model):
        module: Any = model.get_submodule(path)
        kinds = module.rope_type
        taken.append((module, kinds))
        module.rope_type = dict.fromkeys(kinds, "default") if isinstance(kinds, dict) else "default"
    try:
        yield
    finally:
        for module, kinds in taken:
            module.rope_type = kinds
