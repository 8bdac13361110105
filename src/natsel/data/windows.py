"""Documents become windows of tokens: contiguous, of one length, the same ones every time.

Documents are joined with the tokenizer's end-of-text token behind each, as the field does when it
trains; nothing else is added, in particular no token at the beginning of a window. The stream is
cut into windows side by side; what does not fill one at its end is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from natsel.common.errors import choose, first_line, refuse
from natsel.common.texts import LENGTH, SAMPLES

Place = Literal["start", "end", "spread"]
PLACES: tuple[Place, ...] = ("start", "end", "spread")
TOKENS_A_BATCH = 512
"""Tokens of a batch where windows are short; a longer window is a batch of its own."""

SHARED = 64
"""Tokens in a row that calibration and held-out windows may not share."""

SHORTEST = 8
"""Tokens of a window that may not be in both as a whole; shorter ones say the same by chance."""


def windows(
    documents: Iterable[str],
    tokenizer: Callable[..., Any],
    *,
    length: int = LENGTH,
    samples: int | None = SAMPLES,
    place: Place = "spread",
    argument: str = "data",
    source: object = "these documents",
) -> Tensor:
    """Cut documents into windows of tokens.

    Args:
        documents: texts, in order.
        tokenizer: returns ``input_ids`` of a text, as those of the transformers library do, or
            a list of numbers; its ``eos_token_id`` stands behind each document, if it has one.
        length: tokens in a window.
        samples: how many windows; None for all.
        place: which of them: the first, the last, or spread evenly over all.
        argument: the name the caller used for the documents, for messages.
        source: what the user called them.

    Returns:
        int64 ``[samples, length]``.

    Raises:
        ValueError: if there are too few tokens, or the tokenizer returns something else.

    Example:
        >>> windows(["abcdefgh"], lambda text: [ord(c) - 97 for c in text], length=2, samples=2)
        tensor([[2, 3],
                [6, 7]])
    """
    choose("place", place, PLACES)
    check_windows(length, samples)
    tokens = tokens_of(documents, tokenizer, argument=argument)
    count = len(tokens) // length
    wanted = count if samples is None else samples
    if count < max(wanted, 1):
        num = max(wanted, 1)
        allowed = (
            f"a text of at least {num * length:,} tokens for {num} windows of {length}; "
            f"it has {len(tokens):,}, enough for {count} (samples, length)"
        )
        refuse(argument, source, allowed)
    if place == "end":
        return tokens[len(tokens) - wanted * length :].view(wanted, length).clone()
    grid = tokens[: count * length].view(count, length)
    if place == "start":
        return grid[:wanted].clone()
    return grid[(2 * torch.arange(wanted) + 1) * count // (2 * wanted)]


def tokens_of(
    documents: Iterable[str], tokenizer: Callable[..., Any], *, argument: str = "data"
) -> Tensor:
    """Return the tokens of documents in one row, int64 ``[N]``, each closed by end-of-text.

    Raises:
        ValueError: if the tokenizer returns no numbers.
    """
    if not callable(tokenizer):
        refuse("tokenizer", tokenizer, "a function of a text that returns its tokens")
    # What transformers' tokenizers add, and that a text is longer than a model reads, is no matter.
    library = hasattr(tokenizer, "model_max_length")
    options = {"add_special_tokens": False, "verbose": False} if library else {}
    end = getattr(tokenizer, "eos_token_id", None)
    parts: list[Tensor] = []
    for document in documents:
        if not isinstance(document, str):
            refuse(argument, document, "strings")
        found = tokenizer(document, **options)
        ids = found["input_ids"] if isinstance(found, Mapping) else found
        try:
            row = torch.as_tensor(ids)
        except (TypeError, ValueError, RuntimeError) as error:
            refuse("tokenizer", tokenizer, f"one that returns whole numbers ({first_line(error)})")
        if row.numel() and (row.is_floating_point() or row.is_complex()):
            refuse("tokenizer", tokenizer, "one that returns whole numbers")
        parts.append(row.long().flatten())
        if isinstance(end, int):
            parts.append(torch.tensor([end]))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


def token_batches(rows: Tensor) -> list[dict[str, Tensor]]:
    """Return windows as batches with their own tokens as labels, a few windows each.

    Example:
        >>> [tuple(b["input_ids"].shape) for b in token_batches(torch.zeros(3, 256).long())]
        [(2, 256), (1, 256)]
    """
    size = max(1, TOKENS_A_BATCH // rows.shape[1])
    return [{"input_ids": part, "labels": part} for part in torch.split(rows, size)]


def shared_run(first: Iterable[Any], second: Iterable[Any]) -> int:
    """Return how many tokens in a row some windows share with others, 0 for none that matters.

    A run matters from :data:`SHARED` tokens on; a window that is shorter, from :data:`SHORTEST` on,
    if it is there as a whole. One token again and again is no run.

    Args:
        first: windows, a row of numbers each.
        second: others.

    Example:
        >>> one, other = list(range(10)), list(range(1, 11))
        >>> shared_run([one], [other]), shared_run([one], [other, one])
        (0, 10)
    """
    seen = {run for row in first for run in _runs(row)}
    return max((len(run) // 8 for row in second for run in _runs(row) if run in seen), default=0)


def _runs(row: Any) -> Iterator[bytes]:
    numbers = np.ascontiguousarray(row, dtype=np.int64)
    size = min(SHARED, len(numbers))
    for start in range(len(numbers) - size + 1 if size >= SHORTEST else 0):
        run = numbers[start : start + size]
        if bool((run != run[0]).any()):
            yield run.tobytes()


def check_windows(length: int, samples: int | None) -> None:
    """Refuse a length or a number of windows that is none.

    Raises:
        ValueError: naming it.
    """
    _check_whole("length", length, 2)
    if samples is not None:
        _check_whole("samples", samples, 1)


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        refuse(name, value, f"a whole number of at least {least}")
