"""Close the way to experts: a router that never chooses some of them, as if they were not there."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from natsel.communities.community import Community
from natsel.communities.tensors import common_path

CASTS = frozenset(
    (
        *(Tensor.to, Tensor.type, Tensor.type_as, Tensor.detach),
        *(Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16),
    )
)
"""What gives the same tensor, in whatever precision."""


class Router(NamedTuple):
    """What a router chooses by.

    Attributes:
        path: of the module that holds all of it.
        weight: of the logits, by its path in the module; its first axis is experts.
        preferences: what else is added before it chooses, with the axis of experts.
    """

    path: str
    weight: str
    preferences: tuple[tuple[str, int], ...]


def router_of(community: Community) -> Router | None:
    """Return the router of a community of experts; None of any other."""
    weights = [s.tensor for s in community.slices if s.role == "route"]
    if not weights:
        return None
    added = [(s.tensor, s.axis) for s in community.slices if s.role == "preference"]
    path = common_path(name.rpartition(".")[0] for name in (*weights, *(n for n, _ in added)))
    rest = len(path) + bool(path)
    return Router(path, weights[0][rest:], tuple((name[rest:], axis) for name, axis in added))


class _Scores(TorchFunctionMode):
    """Adds to the logits that one weight makes, and to preferences, while a module runs."""

    def __init__(self, weight: Tensor, preferences: list[tuple[Tensor, int]], addend: Tensor):
        super().__init__()
        self.same = [weight]
        self.preferences = preferences
        self.addend = addend

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.preferences and getattr(func, "__name__", "") != "__get__":
            args = tuple(self._preferred(value) for value in args)
        out = func(*args, **kwargs)
        if func is F.linear:
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            if self._is_weight(weight):
                return out + self.addend.to(device=out.device, dtype=out.dtype)
        elif func in CASTS and self._is_weight(args[0]):
            self.same.append(out)
        return out

    def _is_weight(self, value: Any) -> bool:
        return any(value is known for known in self.same)

    def _preferred(self, value: Any) -> Any:
        for held, axis in self.preferences:
            if value is held:
                shape = [1] * held.dim()
                shape[axis] = -1
                return held + self.addend.to(device=held.device, dtype=held.dtype).reshape(shape)
        return value


class Closing:
    """A pair of hooks on the module that holds a router.

    Args:
        router: what it chooses by.
        closed: true for experts that may not be chosen, ``[E]``.
    """

    def __init__(self, router: Router, closed: Tensor) -> None:
        self.router = router
        self.addend = torch.zeros(len(closed)).masked_fill_(closed, float("-inf"))
        self.running: list[_Scores] = []

    def attach(self, module: nn.Module) -> None:
        """Put the pair on a module."""
        module.register_forward_pre_hook(self.enter)
        module.register_forward_hook(self.leave, always_call=True)

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """Start adding, before the module runs."""
        while self.running:  # a forward that is stopped from the keyboard calls no hook
            self.leave(module, inputs, None)
        added = [(attrgetter(name)(module), axis) for name, axis in self.router.preferences]
        scores = _Scores(attrgetter(self.router.weight)(module), added, self.addend)
        scores.__enter__()  # type: ignore[no-untyped-call]
        self.running.append(scores)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Stop adding, after it ran or failed."""
        self.running.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]


def close(model: nn.Module, router: Router, closed: Tensor) -> None:
    """Let a router never choose some experts: their logits become minus infinity.

    So does what it adds for them before it chooses, else one of no weight could take the place of
    another. Then a closed expert takes part in nothing, nor does a group of such: the model
    computes what one without these experts computes.

    Args:
        model: changed in place.
        router: of it.
        closed: boolean ``[E]``.
    """
    Closing(router, closed).attach(model.get_submodule(router.path))
