"""Inputs that a model of the transformers library runs on, from its configuration."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from natsel.common.errors import refuse

BATCH = 2
LENGTH = 8
SIDE = 64
"""Of an image where the model takes any."""

SAMPLES = 4096
"""Of a sound wave."""

MAX_INPUT = 2**24
"""Numbers of one input: no tensor of a model may depend on the size of an image."""


def example_inputs(model: Any, *, seed: int = 0) -> dict[str, Tensor]:
    """Return small random inputs by name: images, sound, tokens, or several of them.

    Args:
        model: of the transformers library.
        seed: of the values.

    Returns:
        Named inputs on the CPU; an encoder-decoder gets ``decoder_input_ids`` too.

    Raises:
        ValueError: if the model takes something else.

    Example:
        >>> from natsel_bench.zoo import build_architecture
        >>> inputs = example_inputs(build_architecture("hf-t5")[0])
        >>> {name: tuple(tensor.shape) for name, tensor in inputs.items()}
        {'input_ids': (2, 8), 'decoder_input_ids': (2, 6)}
    """
    generator = torch.Generator().manual_seed(seed)
    config, main = model.config, model.main_input_name
    accepted = inspect.signature(model.forward).parameters
    inputs: dict[str, Tensor] = {}
    size = _number(config, "image_size") or (SIDE if main == "pixel_values" else None)
    if "pixel_values" in accepted and size is not None:
        channels = _number(config, "num_channels") or 3
        _check_input("image_size", size, channels * size * size)
        inputs["pixel_values"] = torch.randn(BATCH, channels, size, size, generator=generator)
    bins, frames = _number(config, "num_mel_bins"), _number(config, "max_source_positions")
    if main == "input_features" and bins is not None and frames is not None:
        _check_input("max_source_positions", frames, 2 * bins * frames)
        # Two frames become one position.
        inputs[main] = torch.randn(BATCH, bins, 2 * frames, generator=generator)
    if main == "input_values" and bins is None:
        inputs[main] = torch.randn(BATCH, SAMPLES, generator=generator)
    vocabulary = _number(config.get_text_config(), "vocab_size")
    if "input_ids" in accepted and vocabulary is not None:
        inputs["input_ids"] = _tokens(vocabulary, _length(config), generator)
    if config.is_encoder_decoder and "decoder_input_ids" in accepted and vocabulary is not None:
        inputs["decoder_input_ids"] = _tokens(vocabulary, _length(config) - 2, generator)
    if main not in inputs:
        refuse("model", type(model).__name__, f"one that takes images, sound or tokens, not {main}")
    return inputs


def _check_input(name: str, value: int, num_elements: int) -> None:
    if not 0 < num_elements <= MAX_INPUT:
        refuse(
            f"config.json {name}", value, f"what makes an input of at most {MAX_INPUT:,} numbers"
        )


def _tokens(vocabulary: int, length: int, generator: torch.Generator) -> Tensor:
    # The first tokens of most vocabularies are padding and the like.
    first = min(4, vocabulary - 1)
    return torch.randint(first, vocabulary, (BATCH, length), generator=generator)


def _length(config: Any) -> int:
    return min(LENGTH, _number(config.get_text_config(), "max_position_embeddings") or LENGTH)


def _number(config: Any, name: str) -> int | None:
    """Return a whole number of a configuration or of its part for images."""
    value = getattr(config, name, getattr(getattr(config, "vision_config", None), name, None))
    if isinstance(value, list | tuple) and len(set(value)) == 1:
        value = value[0]
    return value if isinstance(value, int) else None
