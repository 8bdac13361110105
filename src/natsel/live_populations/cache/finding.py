"""The attention layers of a decoder whose cache can lose entries, and why others cannot."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn
from transformers.cache_utils import Cache, DynamicLayer, get_layer_types_and_kwargs

from natsel.common.errors import refuse
from natsel.live_populations.cache.layer import LiveLayer

IMPLEMENTATIONS = ("sdpa", "eager")
"""Attention that takes a mask for each head, so that heads may hold different entries."""

DECODER = (
    "a decoder of the transformers library with a key/value cache, whose attention asks the "
    "library's table of implementations (Llama, Qwen, Mistral, Gemma, Phi, GPT-2, GPT-NeoX, "
    "Mixtral and most others)"
)


def globals_of(module: nn.Module) -> dict[str, Any]:
    """Return the names that a module's forward sees."""
    return _globals_of(type(module).forward)


@cache
def _globals_of(forward: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = inspect.unwrap(forward).__globals__
    return found


def asks_the_table(module: nn.Module) -> bool:
    """Tell whether a module's forward asks the library's table of attention implementations."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def attention_layers(model: nn.Module) -> dict[int, nn.Module]:
    """Return the attention modules of a decoder by the index of their cache layer.

    Raises:
        ValueError: if it is no decoder of which this is known.
    """
    found: dict[int, nn.Module] = {}
    if not isinstance(model, nn.Module):
        refuse("model", model, DECODER)
    told = type(model).__name__
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if not isinstance(index, int) or not asks_the_table(module):
            continue
        if getattr(module, "is_cross_attention", False) or index in found:
            refuse("model", told, "a decoder with one cache layer for each attention layer")
        if getattr(module, "is_causal", True):
            found[index] = module
    if not found:
        refuse("model", told, DECODER)
    return dict(sorted(found.items()))


def left_whole(model: nn.Module, layers: dict[int, nn.Module]) -> dict[int, str]:
    """Return which layers cannot lose entries, and why."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        config = next(iter(layers.values())).config
    text: Any = config
    types, _ = get_layer_types_and_kwargs(text.get_text_config(decoder=True))
    reasons = {}
    for index in layers:
        kind = types[index] if index < len(types) else "full_attention"
        if kind != "full_attention":
            reasons[index] = f"{kind}: its cache is bounded or shared already"
    return reasons


def decoder_of(model: nn.Module, modules: dict[int, nn.Module]) -> nn.Module:
    """Return the innermost module that turns tokens into what all attention modules read.

    Raises:
        ValueError: if there is none.
    """
    found = None
    for module in model.modules():  # the outer ones come first
        known = inspect.signature(module.forward).parameters
        if {"input_ids", "past_key_values"} <= known.keys():
            inside = set(module.modules())
            found = module if inside.issuperset(modules.values()) else found
    if found is None:
        refuse("model", type(model).__name__, "one whose tokens can be read a second time")
    return found


def check_implementation(module: nn.Module) -> str:
    """Return the attention implementation of a module, which takes a mask for each head.

    Raises:
        ValueError: if it takes none.
    """
    config: Any = module.config
    name = config._attn_implementation
    if name not in IMPLEMENTATIONS:
        allowed = f"{' or '.join(map(repr, IMPLEMENTATIONS))}, which take a mask for each head"
        refuse("attn_implementation", name, allowed)
    if name == "eager" and getattr(module, "reorder_and_upcast_attn", False):
        refuse("reorder_and_upcast_attn", True, "False, or attn_implementation='sdpa'")
    if name == "eager" and "eager_attention_forward" not in globals_of(module):
        refuse("attn_implementation", name, f"'sdpa' for {type(module).__name__}")
    return str(name)


def is_whole_at(cache: Cache, index: int) -> bool:
    """Tell whether a layer of a cache is a dynamic one, in which nobody ever left."""
    if getattr(cache, "offloading", False):
        return False
    if index < len(cache.layers):
        return type(cache.layers[index]) is DynamicLayer
    return cache.layer_class_to_replicate is DynamicLayer


def layer_of(given: object, index: int, *, for_proof: bool) -> LiveLayer:
    """Return the live layer of a cache, which takes the place of a dynamic one.

    Raises:
        ValueError: if the cache cannot lose entries.
    """
    if given is None:
        refuse("use_cache", False, "True: without a cache there is nothing to evict from")
    if not isinstance(given, Cache) or getattr(given, "offloading", False):
        told = type(given).__name__ + (" with offloading" if isinstance(given, Cache) else "")
        refuse("past_key_values", told, "transformers.DynamicCache")
    if given.layer_class_to_replicate is DynamicLayer:
        while len(given.layers) <= index:
            given.layers.append(DynamicLayer())  # type: ignore[no-untyped-call]
    layer = given.layers[index] if index < len(given.layers) else None
    if isinstance(layer, LiveLayer):
        return layer
    if type(layer) is not DynamicLayer:
        told = f"{type(given).__name__} with a {type(layer).__name__} at layer {index}"
        refuse("past_key_values", told, "transformers.DynamicCache, whose layers can lose entries")
    live = LiveLayer.adopting(layer, for_proof=for_proof)
    given.layers[index] = live
    return live
