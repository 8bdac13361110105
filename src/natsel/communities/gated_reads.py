"""A gated weight is read at every forward pass: without the detours of a parametrization."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize


def shorten(module: nn.Module, name: str) -> None:
    """Let a parametrized module compute a tensor directly from what it is parametrized by.

    The parametrization's own property takes five Python calls to a gate, which costs a small
    network more than the gate's product. The result is the same. Copies of a module share its
    class and so this property: it looks everything up in the module that is read.

    Args:
        module: parametrized, so that its class is its own.
        name: of the parametrized tensor.
    """
    kind = type(module)
    detour = getattr(kind, name)
    # A class that has one already belongs to a module whose tensor got another parametrization.
    if isinstance(detour, property) and not isinstance(detour, _Short):
        setattr(kind, name, _Short(_reader(name, detour), detour.fset))


class _Short(property):
    """The property that :func:`shorten` puts in place."""


def _reader(name: str, detour: property) -> Any:
    def read(module: Any) -> Tensor:
        stack = module._modules["parametrizations"]._modules[name]
        if parametrize._cache_enabled or not stack.is_tensor:
            return detour.__get__(module)  # type: ignore[no-any-return]
        weight: Tensor = stack.original
        for step in stack._modules.values():
            weight = step(weight)
        return weight

    return read
