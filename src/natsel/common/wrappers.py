"""Modules that stand for another one: compiled, or spread over devices."""

from __future__ import annotations

from torch import nn


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
