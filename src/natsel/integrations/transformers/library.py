"""Classes of the transformers library by name, and models of them from data that nobody trusts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from natsel.common.errors import first_line
from natsel.common.extras import require

ATTENTION = ("eager", "sdpa")
EXPERTS = ("eager", "batched_mm", "grouped_mm")
NO_NUMBER = "__float__"
"""How the library writes infinity in JSON."""
# What a configuration may not decide: which code is run, and how weights are read.
_UNTRUSTED = (
    *("auto_map", "natsel", "quantization_config", "adapter_config"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
)


def library() -> Any:
    """Return the transformers library.

    Raises:
        MissingExtraError: if it is not installed.
    """
    return require("transformers", "transformers")


@contextmanager
def without_bars() -> Iterator[None]:
    """Let the library, and the hub's, show no progress bars for a while."""
    bars = require("transformers.utils.logging", "transformers")
    hub = require("huggingface_hub.utils", "transformers")
    shown, hub_silent = bars.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
        if hub_silent:
            hub.disable_progress_bars()
        else:
            hub.enable_progress_bars()


def class_of(model: nn.Module) -> Any | None:
    """Return the class in the transformers library that a model is of, or None."""
    # Whoever has such a model has imported the library.
    if "transformers" not in sys.modules:
        return None
    kinds = [k for k in type(model).__mro__ if class_named(k.__name__) is k]
    # The mixin that a saved folder brings along is a copy of the one here.
    ours = hasattr(type(model), "natsel_adapt")
    return kinds[0] if kinds and (kinds[0] is type(model) or ours) else None


def class_named(name: object) -> Any | None:
    """Return a model class of the transformers library by its name, or None.

    Nothing but the library is looked into: a name in a file cannot reach other code.
    """
    transformers = library()
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    is_class = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if is_class and found.__module__.startswith("transformers.models.") else None


def trusted(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that only describes a model."""
    return {key: _plain(value) for key, value in data.items() if key not in _UNTRUSTED}


def _plain(value: Any) -> Any:
    """Return a value of a configuration, with numbers that JSON has no word for."""
    if isinstance(value, Mapping):
        if value.keys() == {NO_NUMBER} and value[NO_NUMBER] in ("Infinity", "-Infinity", "NaN"):
            return float(value[NO_NUMBER])
        return trusted(value)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def implementation(config: Any, name: str) -> Any:
    """Return which implementation a configuration names, and those inside it where others.

    Args:
        config: of a model; a backbone inside, for example, may not have the one of the whole.
        name: "attn" or "experts".

    Returns:
        A name, None, or a mapping in the format of the library: "" for the configuration itself.
    """
    own = getattr(config, f"_{name}_implementation", None)
    inside = {
        key: implementation(part, name)
        for key in getattr(config, "sub_configs", ())
        if (part := getattr(config, key, None)) is not None
    }
    others = {key: value for key, value in inside.items() if value is not None}
    if all(value == own for value in others.values()):
        return own
    return {"": own, **others} if own is not None else others


def _all_in(value: object, allowed: tuple[str, ...]) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(_all_in(v, allowed) for v in value.values())
    return isinstance(value, str) and value in allowed


def build(kind: Any, data: Mapping[str, Any], *, device: str = "cpu", like: Any = None) -> Any:
    """Build a model from a configuration; its weights hold no values yet.

    Memory for them is reserved and not touched; buffers that the class computes are there.

    Args:
        kind: a class of the library.
        data: the configuration, as JSON has it.
        device: "cpu", or "meta" for shapes alone.
        like: an object with ``attention`` and ``experts``, the implementations to use.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: if the class cannot be built from it.
    """
    from transformers.initialization import meta_device_safe_creation_ops, no_init_weights

    try:
        config = kind.config_class.from_dict(trusted(data))
        if like is not None and _all_in(like.get("attention"), ATTENTION):
            config._attn_implementation = like["attention"]
        if like is not None and _all_in(like.get("experts"), EXPERTS):
            config._experts_implementation = like["experts"]
        with (
            torch.random.fork_rng(devices=[]),
            torch.device(device),
            meta_device_safe_creation_ops(),
            no_init_weights(),
        ):
            model = kind(config)
        model.tie_weights()
    # A configuration may be wrong in any way, and each class tells it in its own.
    except Exception as error:  # noqa: BLE001
        told = first_line(error)
        raise ValueError(f"config.json is none of a {kind.__name__}: {told}") from None
    return model.eval()
