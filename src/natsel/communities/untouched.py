"""What a forward leaves behind in a model: caches, counters, states; here they do not stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

OWN = ("_parameters", "_buffers", "_modules", "training")
CONTAINERS = (dict, list, set)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put back, at the end, what running a model writes into its attributes and buffers.

    Attributes of modules, what is in the dictionaries, lists and sets among them, and the numbers
    in buffers are as they were; parameters are not looked at, for no forward writes into them.

    Args:
        model: any module.
    """
    before = [(module, _attributes(module), dict(module._buffers)) for module in model.modules()]
    written = {
        id(b): (b, b._version, b.detach().clone())
        for _, _, buffers in before
        for b in buffers.values()
        if b is not None and not b.is_meta and not b.is_inference()
    }
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            _restore(module, attributes)
            for name, buffer in buffers.items():
                if module._buffers.get(name) is not buffer:
                    module._buffers[name] = buffer
        with torch.no_grad():
            for buffer, version, value in written.values():
                if buffer._version != version:
                    buffer.copy_(value)


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return the attributes of a module, with copies of the containers among them."""
    return {
        name: (value, value.copy() if type(value) in CONTAINERS else None)
        for name, value in vars(module).items()
        if name not in OWN
    }


def _restore(module: nn.Module, attributes: dict[str, tuple[Any, Any]]) -> None:
    now = vars(module)
    for name in [n for n in now if n not in attributes and n not in OWN]:
        del now[name]
    for name, (value, content) in attributes.items():
        if now.get(name) is not value:
            now[name] = value
        if content is not None and not _same(value, content):
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)


def _same(value: Any, content: Any) -> bool:
    """Tell whether a container holds the very same things."""
    if isinstance(value, dict):
        return list(value) == list(content) and all(v is content[k] for k, v in value.items())
    if isinstance(value, set):
        return bool(value == content)
    return len(value) == len(content) and all(a is b for a, b in zip(value, content, strict=True))
