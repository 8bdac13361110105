"""What tells the hooks that natsel puts on modules from a user's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class Observer:
    """Base of what natsel hooks to modules: itself, or its methods."""


def is_ours(hook: object) -> bool:
    """Tell whether a hook is one of natsel's."""
    return isinstance(hook, Observer) or isinstance(getattr(hook, "__self__", None), Observer)


def unhook(module: nn.Module) -> None:
    """Take every hook of natsel off a module."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, hook in hooks.items() if is_ours(hook)]:
            del hooks[key]
            module._forward_hooks_always_called.pop(key, None)


@contextmanager
def taken_off(model: nn.Module) -> Iterator[None]:
    """Take every hook of natsel off a model for a while."""
    kept = []
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if is_ours(hook)]:
                always = module._forward_hooks_always_called.pop(key, None)
                kept.append((module, hooks, key, hooks.pop(key), always))
    try:
        yield
    finally:
        for module, hooks, key, hook, always in kept:
            hooks[key] = hook
            if always is not None:
                module._forward_hooks_always_called[key] = always
