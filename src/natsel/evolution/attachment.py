"""Evolve before each step of an optimizer, for as long as it trains the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from natsel.common.errors import refuse


class Attachment:
    """Calls a function before each ``optimizer.step()``.

    It ends by itself when the optimizer goes on with another model.

    Args:
        optimizer: must hold a parameter of the model.
        model: what the optimizer trains.
        call: what to call.

    Raises:
        ValueError: if the optimizer holds no parameter of the model.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, call: Callable[[], None]
    ) -> None:
        check_holds(optimizer, model)
        self._parameters = {id(p) for p in model.parameters()}
        self._call = call
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if _holds(optimizer, self._parameters):
            self._call()
        else:
            self.end()

    def end(self) -> None:
        """Call no more."""
        self._handle.remove()


def check_holds(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer that holds no parameter of the model.

    Raises:
        ValueError: naming the optimizer.
    """
    if not _holds(optimizer, {id(p) for p in model.parameters()}):
        refuse("optimizer", type(optimizer).__name__, "one that holds the model's parameters")


def _holds(optimizer: torch.optim.Optimizer, parameters: set[int]) -> bool:
    return any(id(p) in parameters for group in optimizer.param_groups for p in group["params"])
