"""Data of the user's own module, by ``module:name`` of what yields batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from natsel.common.calls import IGNORED
from natsel.common.errors import refuse
from natsel.common.importing import imported
from natsel.data.corpus import Corpus, read_corpus

LEAST = 5
BATCHES = "batches (inputs, labels) of two tensors"


def read_data(
    text: str, *, seed: int, batches: Sequence[Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Read what a user's own loader yields into memory, up to a gigabyte of it.

    Args:
        text: ``module:name`` of a function of no arguments that returns an iterable of batches
            (inputs, labels), or of such an iterable. A mapping with "labels" and one other tensor
            is a batch, too.
        seed: of what torch draws meanwhile, as a loader that shuffles does.
        batches: what it yields, if that was read before.

    Returns:
        Inputs ``[N, ...]``, and labels, int64 ``[N]`` or ``[N, T]``.

    Raises:
        ValueError: if there is no such thing, it fails, or yields something else.
    """
    batches = own_corpus(text, seed=seed).batches if batches is None else batches
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


def own_corpus(text: str, *, seed: int, argument: str = "data") -> Corpus:
    """Read what a user's own loader yields, batches or texts, with torch's generator seeded.

    Raises:
        ValueError: if there is no such thing, or it fails.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        imported(argument, text)
        torch.default_generator.manual_seed(seed)  # again: a module is imported only once
        return read_corpus(text, argument=argument)


def are_named(batches: Sequence[Any]) -> bool:
    """Tell whether batches are read by the names of the model's arguments.

    Example:
        >>> one = torch.zeros(1, 2)
        >>> are_named([{"input_ids": one, "labels": one}]), are_named([{"x": one, "labels": one}])
        (True, False)
    """
    first = batches[0] if batches else None
    if isinstance(first, list | tuple) and len(first) == 1:
        first = first[0]
    if not isinstance(first, Mapping):
        return False
    return "input_ids" in first or len(set(first) - {"labels"}) != 1 or "labels" not in first


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
