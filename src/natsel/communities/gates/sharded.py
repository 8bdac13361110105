"""Models whose parameters are spread over processes cannot be gated."""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor, nn


def check_whole(model: nn.Module) -> None:
    """Refuse a model whose parameters are spread over processes.

    Raises:
        ValueError: naming what spreads them, with the remedy.
    """
    for module in model.modules():
        kind = next((k.__name__ for k in type(module).__mro__ if k.__name__ in SPREADING), None)
        if kind is not None:
            _refuse_spread(f"the model is spread over processes by {kind}")
    for name, parameter in model.named_parameters():
        check_not_spread(name, parameter)


def check_not_spread(name: str, parameter: Tensor) -> None:
    """Refuse a parameter of which this process has only a share.

    Raises:
        ValueError: with the remedy.
    """
    if "DTensor" in (type(parameter).__name__, type(parameter.data).__name__):
        _refuse_spread(f"{name} is a DTensor, spread over processes")


SPREADING = ("FullyShardedDataParallel", "FSDPModule")
"""Classes under which a module's parameters are only a share of themselves."""


def _refuse_spread(what: str) -> NoReturn:
    raise ValueError(
        f"this model is not allowed: {what} (remedy: train it with DistributedDataParallel while "
        "it evolves, extract, then shard the small one)"
    )
