"""What a model in memory is worth on held-out data."""

from __future__ import annotations

from typing import Any

from torch import nn

from natsel.common.batches import Data, reread
from natsel.common.errors import choose
from natsel.common.texts import LENGTH, SAMPLES
from natsel.pruning.texts import is_text, read_text
from natsel.quality import Measure, Quality, losses, measure_for, quality_of
from natsel.quality.quality import MEASURES


def evaluate(
    model: nn.Module,
    data: Data,
    *,
    against: nn.Module | None = None,
    measure: Measure | None = None,
    tokenizer: Any = None,
    length: int = LENGTH,
    samples: int | None = SAMPLES,
) -> Quality:
    """Return what a model is worth on data, with an interval; beside another one, also paired.

    The same as ``natsel evaluate``, for models in memory. A causal language model is judged by its
    perplexity over windows, anything with one label a sample by accuracy.

    Args:
        model: what is judged; it is not changed.
        data: batches with labels, as :func:`natsel.score` takes them; with a tokenizer also texts:
            a list of strings, or a path or a name as ``--data`` takes it.
        against: a model to compare with on the same samples, such as the dense one.
        measure: "accuracy", "perplexity" or "loss"; by the first batch if not given.
        tokenizer: of the model, for texts.
        length: tokens in a window of a text.
        samples: how many windows of a text, spread evenly over it; None for all.

    Returns:
        Means with 95 % intervals; with ``against`` their ratio and a paired test. ``summary()`` is
        a text.

    Raises:
        ValueError: if an argument is not allowed, or no label counts.
        NonFiniteError: if a loss is NaN or infinite.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 2, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> evaluate(model, [(torch.ones(4, 1), torch.tensor([0, 0, 0, 1]))]).after.mean
        0.75
    """
    if measure is not None:
        choose("measure", measure, MEASURES)
    if is_text(data):
        options: dict[str, Any] = {"held_out": True, "length": length, "samples": samples}
        data = read_text(model, data, tokenizer, **options).batches
    batches = reread(data)
    chosen = measure if measure is not None else measure_for(model, batches, argument="data")
    before = losses(against, batches) if against is not None else None
    return quality_of(losses(model, batches), before, measure=chosen)
