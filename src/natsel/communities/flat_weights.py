"""Recurrent layers of torch keep a list of their weights besides: gates must stand in it too."""

from __future__ import annotations

from typing import Any

from torch import nn

ATTRIBUTE = "_flat_weights"


def follow(module: nn.Module) -> None:
    """Let a gated recurrent layer run on its gated weights, whatever its list holds.

    Its class (a parametrized module has one of its own) computes the list anew at each look. The
    list of the instance keeps the parameters themselves, so that the layer can still be copied.
    """
    if isinstance(module, nn.RNNBase):
        setattr(type(module), ATTRIBUTE, property(_present, _ignore))


def restore(module: nn.Module) -> None:
    """Let a recurrent layer whose gates are gone list its parameters again."""
    if isinstance(module, nn.RNNBase) and not isinstance(
        getattr(type(module), ATTRIBUTE, None), property
    ):
        module._init_flat_weights()


def _present(module: Any) -> list[Any]:
    return [getattr(module, name, None) for name in module._flat_weights_names]


def _ignore(module: Any, value: Any) -> None:
    pass
