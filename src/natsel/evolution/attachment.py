"""Evolve with each step of an optimizer, for as long as it trains the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse


class Evolving(Protocol):
    """What is told about the steps of an optimizer."""

    def advance(self, scale: Tensor | None = None) -> None:
        """Read the signal, from gradients that carry a scale, and evolve."""

    def write(self) -> None:
        """Let the model have the present masses."""

    def skip(self) -> None:
        """Take notice of a step that the optimizer does not make."""


class Attachment:
    """Lets something evolve with each ``optimizer.step()``, where the gradients are those of now.

    That is before the optimizer moves the weights; with a closure, after its first evaluation. The
    masses of a step with a closure are written when it is over: a line search that evaluates again
    and again looks at one function.

    It ends by itself when the optimizer goes on with another model.

    Args:
        optimizer: must hold a parameter of the model; it may be wrapped.
        model: what the optimizer trains.
        evolving: what to call.

    Raises:
        ValueError: if the optimizer holds no parameter of the model.
    """

    def __init__(self, optimizer: object, model: nn.Module, evolving: Evolving) -> None:
        inner = check_holds(optimizer, model)
        self._model = model
        self._parameters = {id(p) for p in model.parameters()}
        self._evolving = evolving
        self._is_open = False
        self._handles = [
            inner.register_step_pre_hook(self._before_step),
            inner.register_step_post_hook(self._after_step),
        ]

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not _holds(optimizer, self._parameters):
            # Whoever shards the model gives it other parameters, and the optimizer those.
            self._parameters = {id(p) for p in self._model.parameters()}
            if not _holds(optimizer, self._parameters):
                self.end()
                return None
        # An optimizer that unscales by itself is called at an overflow too, and does nothing then.
        overflow = getattr(optimizer, "found_inf", None)
        if isinstance(overflow, Tensor) and bool(overflow.any()):
            self._evolving.skip()
            return None
        scale = getattr(optimizer, "grad_scale", None)
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            self._evolving.advance(scale)
            self._evolving.write()
            return None
        self._is_open = True
        first = self._reading(closure, optimizer, scale)
        if "closure" in kwargs:
            return args, {**kwargs, "closure": first}
        return (args[0], first, *args[2:]), kwargs

    def _reading(
        self, closure: Callable[[], Any], optimizer: torch.optim.Optimizer, scale: Tensor | None
    ) -> Callable[[], Any]:
        """Return a closure that evolves after it ran for the first time."""
        done = False

        def evaluated() -> Any:
            nonlocal done
            loss = closure()
            # A loop that leaves a batch out returns nothing, and leaves no gradient.
            if not done and (loss is not None or _has_gradient(optimizer)):
                done = True
                self._evolving.advance(scale)
            return loss

        return evaluated

    def _after_step(self, *_: Any) -> None:
        if self._is_open:
            self._is_open = False
            self._evolving.write()

    def end(self) -> None:
        """Call no more."""
        for handle in self._handles:
            handle.remove()


def check_holds(optimizer: object, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of torch inside whatever wraps it, if it trains a model.

    Raises:
        ValueError: naming the optimizer, if there is none, or it holds no parameter of the model.
    """
    inner = innermost(optimizer)
    if not isinstance(inner, torch.optim.Optimizer):
        allowed = "a torch.optim.Optimizer, or what wraps one as its .optimizer"
        refuse("optimizer", type(optimizer).__name__, allowed)
    if not _holds(inner, {id(p) for p in model.parameters()}):
        refuse("optimizer", type(optimizer).__name__, "one that holds the model's parameters")
    return inner


def innermost(optimizer: object) -> object:
    """Return the optimizer of torch inside others that keep it as ``optimizer``.

    Those of accelerate and lightning do, and call it when it is time for a step.

    Example:
        >>> class Wrapper:
        ...     def __init__(self, optimizer):
        ...         self.optimizer = optimizer
        >>> sgd = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
        >>> innermost(Wrapper(Wrapper(sgd))) is sgd
        True
    """
    seen = {id(optimizer)}
    while True:
        inner = getattr(optimizer, "optimizer", None)
        is_one = isinstance(inner, torch.optim.Optimizer) or hasattr(inner, "optimizer")
        if not is_one or id(inner) in seen:
            return optimizer
        seen.add(id(inner))
        optimizer = inner


def _holds(optimizer: torch.optim.Optimizer, parameters: set[int]) -> bool:
    return any(id(p) in parameters for group in optimizer.param_groups for p in group["params"])


def _has_gradient(optimizer: torch.optim.Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
