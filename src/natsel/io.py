"""Load what ``natsel.save`` wrote; reference networks are rebuilt by name."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from natsel.extraction import load as load_plan
from natsel.models import rebuild


def load(folder: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """Read a model that ``natsel.save`` wrote, without pickle; nothing in the files is executed.

    Args:
        folder: where it was saved.
        model: a dense model of the same architecture. Not needed for the reference networks of
            ``natsel.models``, which the plan names.

    Returns:
        The small model, in evaluation mode, on the CPU.

    Raises:
        ValueError: if a file is missing, damaged, of another version or for another architecture.
    """
    return load_plan(folder, model=model, rebuild=rebuild)
