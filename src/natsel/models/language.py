"""Small language models of the transformers library, from configurations; nothing is downloaded.

Neither has dropout, which would draw from the global random state: a run that goes on from its
checkpoint must be the run that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.common.extras import require
from natsel.models.checks import positive

INITIAL = 0.1
"""Standard deviation of BERT's initial weights: its own 0.02 is meant for 768 neurons, not 64."""


def llama(
    in_shape: Sequence[int],
    num_classes: int,
    *,
    dim: int = 64,
    depth: int = 2,
    heads: int = 8,
    key_value_heads: int = 4,
    hidden: int = 256,
) -> nn.Module:
    """Return a ``LlamaForCausalLM``: grouped key/value heads, SwiGLU, RMSNorm, no cache.

    Args:
        in_shape: of one input, (T,): how many characters in a window.
        num_classes: characters of the alphabet.
        dim: width of a character.
        depth: how many layers.
        heads: query heads of a layer.
        key_value_heads: key/value heads that share them in equal groups.
        hidden: neurons of a layer's perceptron.

    Returns:
        The model: int64 ``[B, T]`` -> ``logits [B, T, num_classes]``.

    Raises:
        ValueError: if the numbers do not fit together.
        MissingExtraError: if the transformers library is not installed.
    """
    length = _length(in_shape)
    _divided("dim", dim, "heads", heads)
    _divided("heads", heads, "key_value_heads", key_value_heads)
    if dim // heads % 2:
        refuse("dim", dim, f"an even width for each of {heads} heads, which rotate in pairs")
    library = require("transformers", "transformers")
    config = library.LlamaConfig(
        vocab_size=num_classes,
        hidden_size=dim,
        num_hidden_layers=positive("depth", depth),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        intermediate_size=positive("hidden", hidden),
        max_position_embeddings=length,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    return _built(library.LlamaForCausalLM, config)


def bert(
    in_shape: Sequence[int],
    num_classes: int,
    *,
    dim: int = 64,
    depth: int = 2,
    heads: int = 8,
    hidden: int = 256,
) -> nn.Module:
    """Return a ``BertForMaskedLM`` with one more character than the alphabet: the mask, the last.

    Its places begin as sines and cosines and are learned on: from random ones, a network this
    small would take most of its training to find out which characters are neighbours.

    Args:
        in_shape: of one input, (T,): how many characters in a window.
        num_classes: characters of the alphabet.
        dim: width of a character.
        depth: how many layers.
        heads: heads of a layer.
        hidden: neurons of a layer's perceptron.

    Returns:
        The model: int64 ``[B, T]`` -> ``logits [B, T, num_classes + 1]``.

    Raises:
        ValueError: if the numbers do not fit together.
        MissingExtraError: if the transformers library is not installed.
    """
    length = _length(in_shape)
    _divided("dim", dim, "heads", heads)
    library = require("transformers", "transformers")
    config = library.BertConfig(
        vocab_size=num_classes + 1,
        hidden_size=dim,
        num_hidden_layers=positive("depth", depth),
        num_attention_heads=heads,
        intermediate_size=positive("hidden", hidden),
        max_position_embeddings=length,
        type_vocab_size=1,
        initializer_range=INITIAL,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=None,
    )
    model = _built(library.BertForMaskedLM, config)
    places = model.get_parameter("bert.embeddings.position_embeddings.weight")
    with torch.no_grad():
        places.copy_(INITIAL * waves(length, dim))
    return model


def waves(length: int, dim: int) -> Tensor:
    """Return sines and cosines of places, with wavelengths from 2 pi to 2000 pi: ``[T, D]``.

    Example:
        >>> waves(2, 2)
        tensor([[0.0000, 1.0000],
                [0.8415, 0.5403]])
    """
    frequencies = torch.exp(-math.log(1000.0) * torch.arange(0, dim, 2) / dim)
    angles = torch.arange(length)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :dim]


def _built(kind: Any, config: Any) -> nn.Module:
    model: nn.Module = kind(config)
    return model.train()


def _length(in_shape: Sequence[int]) -> int:
    if len(in_shape) != 1:
        refuse("in_shape", tuple(in_shape), "(T,), the length of a window of characters")
    return in_shape[0]


def _divided(whole_name: str, whole: int, part_name: str, part: int) -> None:
    if positive(whole_name, whole) % positive(part_name, part):
        refuse(part_name, part, f"a divisor of {whole_name}, {whole}")
