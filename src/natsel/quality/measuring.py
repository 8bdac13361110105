"""Which measure says what a model is worth on some data."""

from __future__ import annotations

from torch import Tensor, nn

from natsel.common.batches import Data, is_causal, read_batch
from natsel.common.errors import refuse
from natsel.quality.quality import Measure


def measure_for(model: nn.Module, data: Data, *, argument: str = "held_out") -> Measure:
    """Return how a model is judged: by its first batch.

    A causal language model with a label for each token by its perplexity; one label for each sample
    by accuracy; anything else, such as hidden tokens or pixels, by the loss.

    Args:
        model: that runs on them.
        data: can be read more than once.
        argument: what the caller calls them.

    Raises:
        ValueError: if there is no batch, or it has no labels.

    Example:
        >>> import torch
        >>> measure_for(nn.Linear(1, 2), [(torch.ones(2, 1), torch.tensor([0, 1]))])
        'accuracy'
    """
    for batch in data:
        labels = read_batch(batch).labels
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            refuse(argument, "batches without whole-number labels", "labels in every batch")
        if labels.dim() < 2:
            return "accuracy"
        return "perplexity" if is_causal(model) else "loss"
    refuse(argument, "empty", "at least one batch")
