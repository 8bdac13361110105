"""Load what ``natsel.save`` wrote; nothing in the files decides which code is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from natsel.common.budget import within
from natsel.common.errors import first_line, refuse
from natsel.extraction import Stored, read_folder, rebuild_small
from natsel.extraction.conversion import Conversion
from natsel.integrations.transformers import dense_model
from natsel.models import rebuild


def load(
    folder: str | Path,
    *,
    model: nn.Module | None = None,
    constructor: Callable[..., nn.Module] | None = None,
) -> nn.Module:
    """Read a model that ``natsel.save`` wrote, without pickle; nothing in the files is executed.

    Reference networks of ``natsel.models`` and models of the transformers library are rebuilt from
    the folder alone. For any other, say what it is a small version of.

    Args:
        folder: where it was saved.
        model: a dense model of the same architecture; it is not changed.
        constructor: the class of the model, or a function that makes one; it is called with the
            arguments that :func:`natsel.save` was given.

    Returns:
        The small model, in evaluation mode, on the CPU.

    Raises:
        ValueError: if a file is missing, damaged, of another version or for another architecture.
        MissingExtraError: if it needs the transformers library and that is not installed.
    """
    if model is not None and constructor is not None:
        refuse("constructor", constructor, "None where model is given")
    stored = read_folder(folder)
    stored.check_tensors()
    dense = model if model is not None else _dense(stored, constructor)
    return rebuild_small(dense, stored.tensors(), stored.plan)


def _dense(stored: Stored, constructor: Callable[..., nn.Module] | None) -> nn.Module:
    plan = stored.plan
    recorded = plan.constructor or {}
    if constructor is not None:
        return _constructed(stored, constructor)
    if "class" in recorded:
        return dense_model(stored)
    if "name" in recorded:
        with _building(stored, "plan constructor"):
            return rebuild(recorded)
    how = "constructor=<its class>" if "args" in recorded else "model=<a dense one>"
    refuse("model", None, f"{how}, as the folder holds a {plan.model}")


@contextmanager
def _building(stored: Stored, what: str) -> Iterator[None]:
    """Let a recorded constructor build what is stored, and little more."""
    tensors = len(stored.plan.tensors) + len(stored.plan.tied)
    if stored.plan.conversion is not None:
        tensors += len(Conversion.from_dict(stored.plan.conversion).layers)
    with within(what, tensors=tensors, elements=stored.num_elements):
        yield


def _constructed(stored: Stored, constructor: Callable[..., nn.Module]) -> nn.Module:
    """Call what the user named with the recorded arguments."""
    plan = stored.plan
    wanted = plan.model.rpartition(".")[2]
    if isinstance(constructor, type) and constructor.__name__ != wanted:
        refuse("constructor", constructor.__name__, f"{wanted}, the class that was saved")
    recorded = plan.constructor or {}
    args, kwargs = recorded.get("args", []), recorded.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        refuse("plan constructor", recorded, 'lists and objects as "args" and "kwargs"')
    with torch.random.fork_rng(devices=[]), _building(stored, "plan constructor"):
        try:
            model = constructor(*args, **kwargs)
        except (TypeError, ArithmeticError, RuntimeError, LookupError) as error:
            told = first_line(error)
            refuse("constructor", constructor, f"one that takes the recorded arguments ({told})")
    if type(model).__name__ != wanted:
        refuse("constructor", type(model).__name__, f"{wanted}, the class that was saved")
    return model
