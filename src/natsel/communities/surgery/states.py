"""A recurrent state that a model makes for all of its layers, and one layer that has become narrow.

RWKV keeps the state of all layers in tensors ``[batch, width, layers]``, of the width of the
residual stream. A layer that lost some of its width has the first places of it, and leaves the
rest as it was made.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any, cast

from torch import Tensor, nn

NUM_OF_STREAM = 2
"""How many tensors of a state are of the residual stream, and come first."""


def follow_state(module: Any) -> None:
    """Let the time mixing of a RWKV take its part of the state, in place, where it is narrower."""
    width = module.key.weight.shape[0]
    module.attention_hidden_size = width
    if width < module.config.hidden_size:
        module.__class__ = _narrow(cast(Hashable, type(module)))


@cache
def _narrow(kind: Hashable) -> type[nn.Module]:
    """Return a class that does the same on the first places of a state."""
    assert isinstance(kind, type)
    if hasattr(kind, "_natsel_wide"):
        return kind
    space = {
        "forward": _forward,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__reduce_ex__": _reduced,
        "_natsel_wide": kind,
    }
    return type(kind.__name__, (kind,), space)


def _forward(
    self: Any, hidden: Tensor, state: Sequence[Tensor] | None = None, use_cache: bool = False
) -> tuple[Tensor, Sequence[Tensor] | None]:
    mine = None
    if state is not None:
        own = (x[:, : self.attention_hidden_size] for x in state[NUM_OF_STREAM:])
        mine = [*state[:NUM_OF_STREAM], *own]  # views: what is written to them is in the state
    mixed = self._natsel_wide.forward(self, hidden, state=mine, use_cache=use_cache)[0]
    return mixed, state


def _reduced(self: Any, protocol: Any) -> tuple[Any, ...]:
    """Let copies and pickles make the class anew: it has no place in any file."""
    return _anew, (self._natsel_wide,), self.__dict__


def _anew(kind: type[nn.Module]) -> nn.Module:
    return object.__new__(_narrow(cast(Hashable, kind)))
