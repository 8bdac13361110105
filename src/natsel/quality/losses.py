"""The loss of each sample, from logits that are never all there at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from natsel.common.batches import Data, read_batch
from natsel.common.calls import (
    IGNORED,
    LABELLED,
    Inputs,
    call,
    logits_of,
    taken,
    without_cache,
)
from natsel.common.errors import refuse
from natsel.common.modes import evaluating
from natsel.common.padding import padded
from natsel.common.sharding.wrapping import fsdp_modules

ROOM = 2**28
"""Bytes that the logits of the samples that run together may take."""
AT_ONCE = 2**24
"""Bytes of the logits of which logarithms are taken together: those are as large once more."""


class Losses(NamedTuple):
    """What a model loses on some samples.

    Attributes:
        total: summed cross-entropy of each sample over its labels that count, in nats,
            float64 ``[N]``.
        counted: how many labels count in each, int64 ``[N]``.
        correct: how many of them are predicted, int64 ``[N]``.
    """

    total: Tensor
    counted: Tensor
    correct: Tensor

    @property
    def means(self) -> Tensor:
        """The mean over the labels of each sample, float64 ``[N]``."""
        return self.total / self.counted


def losses(
    model: nn.Module, data: Data, *, replaced: dict[str, Tensor] | None = None, room: int = ROOM
) -> Losses:
    """Run a model over data and return the loss of every sample.

    A sample is one row of a batch: an image, or a window of a text. Rows run together as far as
    their logits fit; samples without a label that counts are left out.

    Args:
        model: in evaluation mode meanwhile, without gradients and without a key/value cache.
        data: batches with labels, as :mod:`natsel.common.batches` reads them; labels of causal
            language models are moved there.
        replaced: parameters to run with in place of the model's own.
        room: bytes for the logits that are there at once.

    Returns:
        One number of each kind per sample, in order, on the processor.

    Raises:
        ValueError: if there is no batch, or no label that counts.

    Example:
        >>> model = nn.Linear(1, 2, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> losses(model, [(torch.ones(2, 1), torch.tensor([0, 1]))]).means
        tensor([0.6931, 0.6931], dtype=torch.float64)
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    rows = 1
    with evaluating(model), without_cache(model), torch.no_grad():
        for batch in data:
            held = read_batch(batch)
            labels, inputs = held.targets(model), held.given(model)
            start = 0
            while start < len(labels):
                part = labels[start : start + rows]
                logits = logits_of(
                    run_model(model, taken(inputs, slice(start, start + rows)), replaced)
                )
                parts.append(compared(logits, part.to(logits.device)))
                start += rows
                rows = max(1, room // max(1, 4 * logits.numel() // len(part)))
                del logits  # before there are the next ones
    if not parts:
        refuse("data", "empty", "at least one batch")
    return counted_alone(Losses(*(torch.cat([p[i] for p in parts]) for i in range(3))))


def counted_alone(found: Losses) -> Losses:
    """Return the samples of which some label counts.

    Raises:
        ValueError: if there is none.
    """
    there = found.counted > 0
    if not bool(there.any()):
        refuse("data", "no sample with a label", LABELLED)
    return Losses(*(each[there] for each in found))


def run_model(model: nn.Module, inputs: Inputs, replaced: dict[str, Tensor] | None) -> Any:
    """Run a model on inputs, with parameters in place of its own.

    Raises:
        ValueError: if it is under ``fully_shard``, which puts the model's own in their place.
    """
    if not replaced:
        return call(model, inputs)
    if fsdp_modules(model):
        refuse("model", type(model).__name__, "one that is not spread over processes")
    args, named = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    with padded(model, inputs):
        return functional_call(model, replaced, args, named)


def compared(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return summed loss, labels that count and those predicted, of each sample.

    Args:
        logits: with the classes last, or second.
        labels: one for each place.

    Raises:
        ValueError: if there is not one label for each place.
    """
    if logits.dim() > 1 and logits.shape[:-1] != labels.shape:
        logits = logits.movedim(1, -1)
    if logits.shape[:-1] != labels.shape:
        told = f"{tuple(labels.shape)} beside logits {tuple(logits.shape)}"
        refuse("labels", told, "one whole number for each place that is predicted")
    # With the classes last: along any other axis torch adds exponentials up one by one in float32,
    # which loses four digits over fifty thousand of them.
    rows, wanted = logits.flatten(0, -2), labels.flatten()
    size = max(1, AT_ONCE // max(1, 4 * rows.shape[-1]))
    split = (torch.split(x, size) for x in (rows, wanted))
    found = [_of_rows(*parts) for parts in zip(*split, strict=True)]
    each, right = (torch.cat(parts) for parts in zip(*found, strict=True))
    counts = labels != IGNORED
    flat = (each.double(), counts.long(), right.long())
    total, counted, correct = (x.reshape(len(labels), -1).sum(1).cpu() for x in flat)
    return total, counted, correct


def _of_rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each row, and whether it is predicted."""
    each = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
    return each, (logits.argmax(-1) == labels) & (labels != IGNORED)
