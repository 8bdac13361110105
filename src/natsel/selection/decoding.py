"""The time of one token: a decoder goes on from a cache that holds some tokens already."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, tensors_of_inputs
from natsel.common.errors import refuse
from natsel.common.modes import evaluating

NAMED = "input_ids"
ALLOWED = 'a causal language model that returns its cache, on tokens; of="forward" for others'


class Decoding(nn.Module):
    """A decoder whose forward pass is one token more, with a cache of what came before.

    The cache grows by a token with each call, as when a text is written; so two of these that are
    called in turn hold as many. The output projection reads the one new place only.

    Args:
        model: a causal language model of the transformers library.
        tokens: what the cache holds first, int64 ``[B, T]``.

    Shapes:
        int64 ``[B, 1]`` -> the model's output at one place.

    Raises:
        ValueError: if the model gives no cache.
    """

    def __init__(self, model: nn.Module, tokens: Tensor) -> None:
        super().__init__()
        self.model = model
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False) is True:
            refuse("of", "decode", ALLOWED)
        with evaluating(model), torch.inference_mode():
            try:
                found = model(input_ids=tokens, use_cache=True)
            except TypeError:  # its forward takes no such arguments
                refuse("of", "decode", ALLOWED)
        self._cache: Any = getattr(found, "past_key_values", None)
        if self._cache is None:
            refuse("of", "decode", ALLOWED)

    def forward(self, token: Tensor) -> Any:
        """Decode one token for each row."""
        found = self.model(input_ids=token, past_key_values=self._cache, use_cache=True)
        self._cache = found.past_key_values
        return found


def prompt_of(model: nn.Module, inputs: Inputs, *, context: int, room: int) -> Tensor:
    """Return the tokens of example inputs, repeated or shortened to what a cache shall hold.

    Args:
        model: that shall decode.
        inputs: examples; ``input_ids`` of them, or the first tensor.
        context: how many tokens; fewer where the model does not know as many positions.
        room: tokens that are decoded besides.

    Returns:
        int64 ``[B, T]``.

    Raises:
        ValueError: if there are no tokens, or the model has no room for them.

    Example:
        >>> prompt_of(nn.Identity(), {"input_ids": torch.tensor([[1, 2, 3]])}, context=5, room=1)
        tensor([[1, 2, 3, 1, 2]])
    """
    first = inputs.get(NAMED) if isinstance(inputs, dict) else tensors_of_inputs(inputs)[0]
    if first is None or first.dim() != 2 or first.is_floating_point():
        refuse("of", "decode", ALLOWED)
    config = getattr(model, "config", None)
    most = getattr(config, "max_position_embeddings", None)
    length = min(context, most - room) if isinstance(most, int) else context
    if length < 1:
        refuse("repeats", room, f"fewer: the model knows {most} positions")
    return first[:, torch.arange(length, device=first.device) % first.shape[1]].contiguous()
