"""Whether batches of tokens are such as a language model reads, before any of them runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from natsel.common.batches import is_causal, read_batch
from natsel.common.errors import refuse


def num_tokens(model: nn.Module) -> int | None:
    """Return how many tokens the embedding of a model has; None where nothing says it."""
    embed = getattr(model, "get_input_embeddings", None)
    try:
        size = getattr(embed() if callable(embed) else None, "num_embeddings", None)
    except (NotImplementedError, AttributeError):
        return None
    return size if isinstance(size, int) else None


def check_tokens(
    model: nn.Module, data: Iterable[Any], argument: str, given: object = None
) -> None:
    """Make sure that batches hold tokens of a model, and labels that are theirs.

    An embedding says of a number beyond it nothing but that an index is out of range, and on an
    accelerator it may end the process; labels of another length fail in the middle of a run.

    Args:
        model: that is to read them; its weights may be on the meta device.
        data: batches that can be read again; those without ``input_ids`` are left alone.
        argument: the name the caller used for them.
        given: what the user called them; None for the numbers at fault.

    Raises:
        ValueError: if a token is none of the model's, or labels have another shape than tokens.

    Example:
        >>> import torch
        >>> class Tiny(nn.Module):
        ...     def get_input_embeddings(self): return nn.Embedding(4, 2)
        >>> check_tokens(Tiny(), [{"input_ids": torch.tensor([[1, 7]])}], "data")
        Traceback (most recent call last):
        ValueError: data='tokens 1 to 7' is not allowed: expected tokens of this model, which are 0 to 3
    """  # noqa: E501
    size = num_tokens(model)
    if size is None:
        return
    for batch in data:
        held = read_batch(batch)
        ids = held.inputs.get("input_ids") if isinstance(held.inputs, Mapping) else None
        if not isinstance(ids, Tensor) or ids.is_floating_point() or not ids.numel():
            return
        low, high = (int(x) for x in ids.aminmax())
        if low < 0 or high >= size:
            told = f"tokens {low} to {high}"
            allowed = f"tokens of this model, which are 0 to {size - 1}"
            refuse(argument, given or told, f"{allowed}; it has {told}" if given else allowed)
        labels = held.labels
        if not isinstance(labels, Tensor) or labels.dim() < 2 or not is_causal(model):
            continue
        if labels.shape != ids.shape:
            told = f"labels of shape {tuple(labels.shape)} beside tokens of {tuple(ids.shape)}"
            allowed = "one label for each token (-100 for none)"
            refuse(argument, given or told, f"{allowed}; it has {told}" if given else allowed)
