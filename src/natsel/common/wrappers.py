"""Modules that stand for another one: compiled, or spread over devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import ParamSpec, TypeVar

from torch import nn

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
_HIDDEN = ("forward", "_original_forward")
"""Where accelerate puts a forward that casts, and the one that was there before."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside ``torch.compile``, ``DataParallel`` or its distributed kin.

    They hold the same parameters under longer names; what is found, gated and cut is the network.

    Example:
        >>> network = nn.Linear(2, 3)
        >>> unwrapped(nn.DataParallel(network)) is network
        True
    """
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(inner, nn.Module):
            model = inner
        elif isinstance(model, parallel):
            model = model.module
        else:
            return model


@contextmanager
def own_forward(model: nn.Module) -> Iterator[None]:
    """Let a model have its own forward for a while, where one that casts was put around it.

    Accelerate does so for mixed precision. Export cannot look into such a forward, and a copy of
    the model would take it along.

    Example:
        >>> network = nn.Linear(2, 3)
        >>> network._original_forward, network.forward = network.forward, lambda x: "cast"
        >>> with own_forward(network):
        ...     network.forward.__func__ is nn.Linear.forward, vars(network).keys() & {"forward"}
        (True, set())
        >>> network(None)
        'cast'
    """
    taken = []
    for module in model.modules():
        own = vars(module)
        if all(name in own for name in _HIDDEN):
            taken.append((module, {name: own.pop(name) for name in _HIDDEN}))
    for module, hidden in taken:
        original = hidden["_original_forward"]
        # Whoever replaced forward before, on this very object, is to find it replaced.
        if getattr(original, "__func__", None) is not type(module).forward:
            vars(module)["forward"] = original
    try:
        yield
    finally:
        for module, hidden in taken:
            vars(module).update(hidden)


def on_own_forward(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Run a function of a model, its first argument, while the model has its own forward."""

    @functools.wraps(function)
    def with_own_forward(*given: _Given.args, **named: _Given.kwargs) -> _Result:
        model = given[0] if given else named.get("model")
        with own_forward(model) if isinstance(model, nn.Module) else nullcontext():
            return function(*given, **named)

    return with_own_forward
