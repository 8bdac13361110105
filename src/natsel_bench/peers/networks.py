"""The networks that every tool gets, and what a user who read its documentation would add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from natsel.common.calls import Inputs
from natsel.models import build
from natsel_bench.peers.reference import distinct_
from natsel_bench.zoo import ARCHITECTURES, build_architecture
from natsel_bench.zoo.traps import TRAPS, build_trap

QUICK = ("mlp", "mobile-unet", "flip", "fused queries, keys, values")
"""A few networks for a first look."""

LARGE = "vit-small"
"""The network whose time is measured apart: about 22 M parameters, images of 224 x 224."""

OUTPUTS: dict[str, tuple[str, ...]] = {
    "mlp": ("layers.4",),
    "resnet20": ("head",),
    "mobile-unet": ("out",),
    "hf-vit": ("classifier",),
    "hf-bert": ("classifier",),
    "hf-llama": ("lm_head",),
    "hf-mixtral": ("lm_head",),
    "hf-gpt2": ("lm_head",),
    "hf-t5": ("lm_head",),
    **dict.fromkeys(("vit", "transformer-encoder", "convnext", "lstm", LARGE), ("head",)),
}
"""The layers whose outputs are classes or tokens."""


WIDTHS: dict[str, str] = {
    "vit": "embedding",
    "transformer-encoder": "embedding",
    "hf-vit": "vit.embeddings.patch_embeddings.projection",
    "hf-bert": "bert.embeddings.word_embeddings",
    "hf-llama": "model.embed_tokens",
    "hf-mixtral": "model.embed_tokens",
    "hf-gpt2": "transformer.wte",
    "hf-t5": "shared",
    "convnext": "stem",
    LARGE: "embedding",
}
"""A layer that writes into the width that a normalisation reads: who keeps it keeps the width."""


@dataclass(frozen=True)
class Heads:
    """An attention layer as a user would describe it.

    Attributes:
        queries: the layer of the queries, or the one of queries, keys and values.
        keys: the layer of the keys, or "" where they come from ``queries``.
        values: the same for the values.
        num_queries: how many heads.
        num_keys: how many key/value heads.
        module: the module that holds numbers which must follow.
        count: its attributes that hold the number of heads.
        size: its attributes that hold the size of one head.
        width: its attributes that hold the size of all heads together.
        groups: its attributes that hold the number of query heads per key/value head.
    """

    queries: str
    keys: str
    values: str
    num_queries: int
    num_keys: int
    module: str
    count: tuple[str, ...] = ()
    size: tuple[str, ...] = ()
    width: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hints:
    """What a user who read a peer's documentation says about a network.

    Attributes:
        outputs: layers whose outputs must stay.
        heads: the attention layers.
        width: a layer to keep where the width is to stay, or "".
    """

    outputs: tuple[str, ...] = ()
    heads: tuple[Heads, ...] = ()
    width: str = ""


# Where attention layers keep their parts: (queries, keys, values), then names of numbers.
_LAYOUTS = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q", "k", "v"),
    ("qkv", "", ""),
    ("c_attn", "", ""),
)
_COUNT = ("num_attention_heads", "num_heads", "n_heads", "heads")
_SIZE = ("head_dim", "attention_head_size", "key_value_proj_dim")
_WIDTH = ("all_head_size", "inner_dim", "split_size")
_GROUPS = ("num_key_value_groups",)


def names() -> dict[str, str]:
    """Return every network with the list it belongs to: "architecture" or "trap"."""
    return dict.fromkeys(ARCHITECTURES, "architecture") | dict.fromkeys(TRAPS, "trap")


def make(network: str) -> tuple[nn.Module, Inputs]:
    """Build a network with distinct weights, and its inputs."""
    if network == LARGE:
        options: dict[str, Any] = {"dim": 384, "depth": 12, "heads": 6, "patch": 16}
        model = build("vit", in_shape=(3, 224, 224), num_classes=1000, **options)
        generator = torch.Generator().manual_seed(0)
        inputs: Inputs = (torch.randn(1, 3, 224, 224, generator=generator),)
    elif network in ARCHITECTURES:
        model, inputs = build_architecture(network)
    else:
        model, inputs = build_trap(network)
    return distinct_(model).eval(), inputs


def has_reference(network: str) -> bool:
    """Tell whether a masked network can equal the smaller one."""
    return network not in TRAPS or TRAPS[network].has_reference


def hints(network: str, model: nn.Module) -> Hints:
    """Return what a user would have to say about a network."""
    heads = []
    for name, module in model.named_modules():
        if (network, type(module)) == ("transformer-encoder", nn.MultiheadAttention):
            continue
        for layout in _LAYOUTS:
            if all(isinstance(getattr(module, part, None), nn.Module) for part in layout if part):
                found = _heads(name, module, layout)
                heads += [found] if found is not None else []
                break
    outputs = TRAPS[network].outputs if network in TRAPS else OUTPUTS[network]
    return Hints(outputs, tuple(heads), WIDTHS.get(network, ""))


def _heads(name: str, module: nn.Module, layout: tuple[str, str, str]) -> Heads | None:
    prefix = f"{name}." if name else ""
    held = vars(module)
    config = held.get("config")
    count = next((held[a] for a in _COUNT if a in held), None)
    count = count if count is not None else getattr(config, "num_attention_heads", None)
    size = next((held[a] for a in _SIZE if a in held), None)
    if count is None and size is not None:
        count = getattr(module, layout[0]).weight.shape[0] // size
    if count is None:
        return None
    queries, keys, values = (prefix + part if part else "" for part in layout)
    return Heads(
        queries,
        keys,
        values,
        count,
        getattr(config, "num_key_value_heads", None) or count,
        name,
        *(tuple(a for a in group if a in held) for group in (_COUNT, _SIZE, _WIDTH, _GROUPS)),
    )
