"""The one table of reference networks: by name, from a seed, back from JSON."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from natsel.common.errors import choose, first_line, refuse
from natsel.common.registry import Registry
from natsel.models.checks import positive, positives
from natsel.models.cnn import CNN
from natsel.models.language import bert, llama
from natsel.models.mlp import MLP
from natsel.models.resnet import ResNet20
from natsel.models.vit import ViT

MODELS: Registry[Callable[..., nn.Module]] = Registry(
    "name",
    {"mlp": MLP, "cnn": CNN, "resnet20": ResNet20, "vit": ViT, "bert": bert, "llama": llama},
)
"""What a saved plan may name, too: nothing is imported for what is not here."""

TASKS = {"bert": "masked character", "llama": "next character"}
"""What the networks that read text predict; the others predict the class of an image."""

IMAGE_SHAPE = (1, 28, 28)
TEXT_SHAPE = (64,)


def default_shape(name: str) -> tuple[int, ...]:
    """Return the shape of one input of a reference network where nobody says another.

    Example:
        >>> default_shape("resnet20"), default_shape("llama")
        ((1, 28, 28), (64,))
    """
    return TEXT_SHAPE if name in TASKS else IMAGE_SHAPE


def build(
    name: str,
    *,
    in_shape: Sequence[int],
    num_classes: int,
    seed: int = 0,
    generator: torch.Generator | None = None,
    **options: Any,
) -> nn.Module:
    """Build a reference network; the same seed gives the same weights.

    The model carries ``model.constructor``, a JSON object that :func:`rebuild` understands. The
    global random state is neither read nor changed.

    Args:
        name: "mlp", "cnn", "resnet20" or "vit" for images, "bert" or "llama" for text.
        in_shape: of one input, (C, H, W), or (T,) for text.
        num_classes: how many outputs; of text, how many characters the alphabet has.
        seed: of the initial weights.
        generator: if given, the seed is drawn from it instead.
        **options: what the network's class accepts.

    Returns:
        The network, in training mode and on the CPU.

    Raises:
        ValueError: if the name, an option or a value is not allowed.
        MissingExtraError: if the network is one of the transformers library, which is not
            installed.
    """
    factory = MODELS.find(name)
    accepted = [p for p in inspect.signature(factory).parameters if p not in _COMMON]
    for option in options:
        choose("option", option, accepted)
    in_shape = positives("in_shape", in_shape)
    num_classes = positive("num_classes", num_classes)
    if not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        refuse("seed", seed, "a whole number of 64 bits")
    if generator is not None:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    bound = inspect.signature(factory).bind(in_shape, num_classes, **options)
    bound.apply_defaults()
    # torch.manual_seed would reseed every accelerator too, which fork_rng(devices=[]) leaves out.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model = factory(*bound.args, **bound.kwargs)
    arguments = {key: _plain(value) for key, value in bound.arguments.items()}
    constructor = {"name": name, "arguments": {**arguments, "seed": seed}}
    vars(model)["constructor"] = constructor
    return model


def rebuild(constructor: Mapping[str, Any]) -> nn.Module:
    """Build a network again from its ``constructor``, with the same initial weights.

    Args:
        constructor: ``{"name": ..., "arguments": {...}}``, as read from JSON.

    Returns:
        The network.

    Raises:
        ValueError: if it is not what :func:`build` stores.
    """
    arguments = constructor.get("arguments")
    if "name" not in constructor or not isinstance(arguments, Mapping):
        refuse("constructor", dict(constructor), 'an object with "name" and "arguments"')
    missing = {"in_shape", "num_classes"} - set(arguments)
    if missing:
        refuse("constructor", dict(constructor), f"arguments with {' and '.join(sorted(missing))}")
    name, options = constructor["name"], dict(arguments)
    if not isinstance(name, str) or options.keys() & {"name", "generator"}:
        refuse("constructor", dict(constructor), "what build stores")
    try:
        return build(name, **options)
    # Any value may be of any type and size, which each network's arithmetic tells in its own way.
    except (TypeError, ArithmeticError, RuntimeError, LookupError, AttributeError) as error:
        told = first_line(error)
        refuse("constructor", dict(constructor), f"what {name} can be built from ({told})")


_COMMON = ("in_shape", "num_classes")


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
