"""A model of the transformers library in which every layer has a width of its own.

natsel copies this file beside a saved model, so it needs nothing but torch and transformers; what
it needs of natsel is added where a model cannot do without. The configuration is that of the dense
model, with what the small one has otherwise in ``natsel``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from torch import Tensor, nn


def reshape(
    model: Any,
    record: dict[str, Any],
    adapt: Callable[[Any], None] | None = None,
    compressed: Callable[..., nn.Module] | None = None,
    absent: Callable[..., nn.Module] | None = None,
) -> None:
    """Give a dense model the shapes and numbers of a small one; values are read afterwards.

    Args:
        model: changed in place; the model that was saved, or the base model inside it.
        record: ``shapes`` of tensors and ``numbers`` in modules by name, and the ``buffers`` that
            are saved although the dense model computes them.
        adapt: replaces the code of modules that cannot run with their new shapes.
        compressed: makes a layer of compressed rows where the record names one.
        absent: makes what stands where a module is gone.
    """
    for owner, attribute, what in _places(model, record.get("absent", {}).items()):
        if absent is not None:
            setattr(owner, attribute, absent(*what))
    for owner, attribute, sizes in _places(model, _compressed(record).items()):
        linear = getattr(owner, attribute)
        if compressed is not None:
            layer = compressed(*sizes, bias=linear.bias is not None, like=linear.weight)
            setattr(owner, attribute, layer)
    smaller: dict[int, Tensor] = {}
    for owner, attribute, shape in _places(model, record["shapes"].items()):
        old = getattr(owner, attribute)
        if id(old) not in smaller:
            new = old.detach()[tuple(slice(0, size) for size in shape)].clone()
            parameter = isinstance(old, nn.Parameter)
            smaller[id(old)] = nn.Parameter(new, old.requires_grad) if parameter else new
        setattr(owner, attribute, smaller[id(old)])
    for owner, attribute, _ in _places(model, ((name, None) for name in record["buffers"])):
        owner._non_persistent_buffers_set.discard(attribute)
    if adapt is not None:
        adapt(model)  # from the shapes and the numbers of the dense model
    for owner, attribute, value in _places(model, record["numbers"].items()):
        if isinstance(getattr(owner, attribute), int | float | tuple):
            setattr(owner, attribute, tuple(value) if isinstance(value, list) else value)


def _places(model: Any, named: Any) -> Iterator[tuple[Any, str, Any]]:
    """Yield the module and attribute of each name; the base model knows them without a prefix."""
    modules = dict(model.named_modules())
    for name, value in list(named):
        for known in (name, name.removeprefix(f"{model.base_model_prefix}.")):
            path, _, attribute = known.rpartition(".")
            if path in modules and hasattr(modules[path], attribute):
                yield modules[path], attribute, value
                break


class Reshaped(nn.Module):
    """What a class of the transformers library inherits first to have the recorded shapes."""

    natsel_adapt: ClassVar[Callable[[Any], None] | None] = None
    natsel_compressed: ClassVar[Callable[..., nn.Module] | None] = None
    natsel_absent: ClassVar[Callable[..., nn.Module] | None] = None

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        kind = type(self)
        reshape(self, config.natsel, kind.natsel_adapt, kind.natsel_compressed, kind.natsel_absent)
        # In their place stand empty tensors, so that the class alone refuses the file.
        model: Any = self
        ours = (
            name.removeprefix(f"{model.base_model_prefix}.") for name in _compressed(config.natsel)
        )
        ignored = {re.escape(f"{name}.weight") + "$" for name in ours}
        prefix, absent = f"{model.base_model_prefix}.", config.natsel.get("absent", {})
        gone = (name.removeprefix(prefix) for name in absent)
        ignored |= {re.escape(f"{name}.") for name in gone}
        known = model._keys_to_ignore_on_load_unexpected or ()
        model._keys_to_ignore_on_load_unexpected = {*known, *ignored}


def _compressed(record: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes of the layers that hold only their surviving weights."""
    found: dict[str, Any] = record.get("compressed", {})
    return found
