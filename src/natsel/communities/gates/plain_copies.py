"""Copies of one gated module: gated ones, and the plain one that is pickled."""

from __future__ import annotations

import copy
import copyreg
from typing import Any

from torch import nn

from natsel.communities.gates.observers import is_ours

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called")


def replicated(module: Any, memo: dict[int, Any]) -> Any:
    """Return a deep copy of a module in the same class, though it pickles as another one."""
    twin = object.__new__(type(module))
    memo[id(module)] = twin
    twin.__dict__ = copy.deepcopy(module.__dict__, memo)
    for slot in copyreg._slotnames(type(module)):  # type: ignore[attr-defined]
        if hasattr(module, slot):
            setattr(twin, slot, copy.deepcopy(getattr(module, slot), memo))
    return twin


def plain_twin(module: nn.Module, kind: type[nn.Module], key: str) -> nn.Module:
    """Return the module without gates that computes the same; it shares whatever is not gated.

    Args:
        module: a gated one.
        kind: its class without gates.
        key: where it keeps its gated weights.
    """
    twin = kind.__new__(kind)
    state = twin.__dict__
    state.update(module.__dict__)
    weights = state.pop(key)
    state["_parameters"] = {
        name: weights[name].folded(parameter) if name in weights else parameter
        for name, parameter in module._parameters.items()
    }
    ours = {
        number for name in HOOKS for number, hook in getattr(module, name).items() if is_ours(hook)
    }
    for name in (*HOOKS, "_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs"):
        hooks = getattr(module, name)
        state[name] = type(hooks)((n, hook) for n, hook in hooks.items() if n not in ours)
    if isinstance(twin, nn.RNNBase):
        twin._init_flat_weights()
    return twin
