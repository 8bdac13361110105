"""Weights that a hook computes before forward: anew, after what they are computed from was cut."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.weight_norm import WeightNorm

HOOKS = (prune.BasePruningMethod, WeightNorm)
"""Hooks that hold nothing of their own but what they compute."""


def recompute(model: nn.Module) -> None:
    """Let the hooks of a model write the weights that they compute, in place.

    Args:
        model: parameters and buffers of it may have been cut.
    """
    with torch.no_grad():
        for module in model.modules():
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, HOOKS):
                    hook(module, None)
