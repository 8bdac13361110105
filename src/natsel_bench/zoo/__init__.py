"""One small network of each architecture that people use, with inputs: what natsel is held to.

They are as small as their structure allows, so that every selection can be tried; those of the
transformers library are built from a configuration, never downloaded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from natsel.common.errors import choose
from natsel_bench.zoo import hub, text, vision

Network = tuple[nn.Module, tuple[Tensor, ...]]

ARCHITECTURES: dict[str, Callable[[], Network]] = {
    "mlp": vision.mlp,
    "resnet20": vision.resnet20,
    "mobile-unet": vision.mobile_unet,
    "vit": vision.vit,
    "transformer-encoder": text.transformer_encoder,
    "hf-vit": hub.vit,
    "hf-bert": hub.bert,
    "hf-llama": hub.llama,
    "hf-mixtral": hub.mixtral,
    "hf-gpt2": hub.gpt2,
    "hf-t5": hub.t5,
    "convnext": vision.convnext,
    "lstm": text.lstm,
}
"""Networks by name: a function from nothing to a model in evaluation mode and example inputs."""


def build_architecture(name: str, *, seed: int = 0) -> Network:
    """Build a small network of an architecture, and inputs that it runs on.

    The global random state is neither read nor changed.

    Args:
        name: a key of ``ARCHITECTURES``.
        seed: of the weights and the inputs.

    Returns:
        The model, in evaluation mode and on the CPU, and a tuple of example inputs.

    Raises:
        ValueError: if there is no architecture of this name.
        MissingExtraError: if it needs the transformers library and that is not installed.

    Example:
        >>> model, inputs = build_architecture("mlp")
        >>> model(*inputs).shape
        torch.Size([2, 10])
    """
    factory = ARCHITECTURES[choose("architecture", name, ARCHITECTURES)]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model, inputs = factory()
    return model.eval(), inputs
