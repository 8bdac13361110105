"""Data of the user's own module, by ``module:name`` of what yields batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from natsel.common.calls import IGNORED
from natsel.common.errors import refuse
from natsel.common.importing import check_call, imported, made

MAX_ELEMENTS = 2**28
"""Numbers that are read at most, a gigabyte of float32: a loader may have no end."""

LEAST = 5
BATCHES = "batches (inputs, labels) of two tensors"


def read_data(text: str, *, seed: int) -> tuple[Tensor, Tensor]:
    """Read what a user's own loader yields into memory, up to a gigabyte of it.

    Args:
        text: ``module:name`` of a function of no arguments that returns an iterable of batches
            (inputs, labels), or of such an iterable. A mapping with "labels" and one other tensor
            is a batch, too.
        seed: of what torch draws meanwhile, as a loader that shuffles does.

    Returns:
        Inputs ``[N, ...]``, and labels, int64 ``[N]`` or ``[N, T]``.

    Raises:
        ValueError: if there is no such thing, it fails, or yields something else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        found: Any = imported("data", text)
        if isinstance(found, type) or not isinstance(found, Iterable):
            check_call("data", text, found)
        torch.default_generator.manual_seed(seed)  # again: a module is imported only once
        batches = made("data", text, partial(_taken, found))
    if batches is None:
        refuse("data", text, "a function of no arguments that returns an iterable of batches")
    pairs = [_pair(text, batch) for batch in batches]
    if sum(len(labels) for _, labels in pairs) < LEAST:
        refuse("data", text, f"at least {LEAST} samples")
    try:
        inputs, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    except RuntimeError:
        shapes = sorted({tuple(x.shape[1:]) for x, _ in pairs})
        refuse("data", text, f"samples of one shape, these are of {shapes}")
    if bool(((labels < 0) & (labels != IGNORED)).any()) or bool((labels == IGNORED).all()):
        refuse("data", text, f"labels >= 0, or {IGNORED} where nothing is predicted")
    return inputs, labels


def _taken(found: Any) -> list[Any] | None:
    """Return batches until the loader ends or there is enough; None where there are none."""
    loader = found if isinstance(found, Iterable) and not isinstance(found, type) else found()
    if not isinstance(loader, Iterable):
        return None
    batches: list[Any] = []
    left = MAX_ELEMENTS
    for batch in loader:
        parts = batch.values() if isinstance(batch, Mapping) else batch
        left -= sum(x.numel() for x in parts if isinstance(x, Tensor)) or 1
        if batches and left < 0:
            break
        batches.append(batch)
    return batches


def _pair(text: str, batch: Any) -> tuple[Tensor, Tensor]:
    """Return a batch as inputs and whole-number labels."""
    if isinstance(batch, Mapping):
        names = [name for name in batch if name != "labels"]
        if "labels" not in batch or len(names) != 1:
            given = ", ".join(map(str, batch))
            refuse("data", text, f'{BATCHES}, or mappings with "labels" and one more, not {given}')
        batch = (batch[names[0]], batch["labels"])
    pair = list(batch) if isinstance(batch, list | tuple) else [batch]
    if len(pair) != 2 or not all(isinstance(x, Tensor) and x.dim() for x in pair):
        kinds = ", ".join(type(x).__name__ for x in pair)
        refuse("data", text, f"{BATCHES}, these hold {kinds}")
    inputs, labels = pair
    if labels.is_floating_point() or labels.is_complex() or len(labels) != len(inputs):
        told = f"{labels.dtype} labels {tuple(labels.shape)} of inputs {tuple(inputs.shape)}"
        refuse("data", text, f"whole-number labels, one for each sample, these are {told}")
    return inputs.detach().cpu(), labels.detach().cpu().long()
