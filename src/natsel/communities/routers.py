"""Close the way to experts: a router that never chooses some of them, as if they were not there."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CASTS = frozenset(
    (
        *(Tensor.to, Tensor.type, Tensor.type_as, Tensor.detach),
        *(Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16),
    )
)


class _Scores(TorchFunctionMode):
    """Adds to the logits that one weight makes, while a module runs."""

    def __init__(self, weight: Tensor, addend: Tensor) -> None:
        super().__init__()
        self.same = [weight]
        self.addend = addend

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is F.linear:
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            if self._is_weight(weight):
                return out + self.addend.to(device=out.device, dtype=out.dtype)
        elif func in CASTS and self._is_weight(args[0]):
            self.same.append(out)
        return out

    def _is_weight(self, value: Any) -> bool:
        """Tell whether a value is the weight, in whatever precision."""
        return any(value is known for known in self.same)


class Closing:
    """A pair of hooks on the module that holds a router's weight.

    Args:
        attribute: name of the weight in the module.
        closed: true for experts that may not be chosen, ``[E]``.
    """

    def __init__(self, attribute: str, closed: Tensor) -> None:
        self.attribute = attribute
        self.addend = torch.zeros(len(closed)).masked_fill_(closed, float("-inf"))
        self.running: list[_Scores] = []

    def attach(self, module: nn.Module) -> None:
        """Put the pair on a module."""
        module.register_forward_pre_hook(self.enter)
        module.register_forward_hook(self.leave, always_call=True)

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """Start adding, before the module runs."""
        scores = _Scores(getattr(module, self.attribute), self.addend)
        scores.__enter__()  # type: ignore[no-untyped-call]
        self.running.append(scores)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Stop adding, after it ran or failed."""
        self.running.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]


def close(module: nn.Module, attribute: str, closed: Tensor) -> None:
    """Let a router never choose some experts: their logits become minus infinity.

    What it adds to them, or to what it makes of them, before it chooses is closed beside (see
    :func:`natsel.communities.surgery.surgery.silence`). Then a closed expert takes part in
    nothing, nor does a group of such: the model computes what one without them computes.

    Args:
        module: holds the router's weight; changed in place.
        attribute: the weight's name there.
        closed: boolean ``[E]``.
    """
    Closing(attribute, closed).attach(module)
