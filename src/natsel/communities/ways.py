"""The way to an expert closes when its mass reaches 0: its router never chooses it again.

An expert of mass 0 that is still chosen would take the share of one that counts.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from natsel.communities.routers import Closing


class Way(Closing):
    """A pair of hooks on a router, that looks at the masses of the experts whenever it runs.

    Args:
        attribute: name of the router's weight in its module.
        gate: holds the masses.
        places: for each row of the weight, the place of its expert among the masses; one place
            more than there are where it is always open.
    """

    def __init__(self, attribute: str, gate: nn.Module, places: Tensor) -> None:
        super().__init__(attribute, torch.zeros(len(places), dtype=torch.bool))
        self.gate = gate
        self.places = places
        self.cached: list[ExitStack] = []

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """Close what has died, before the router runs."""
        mass: Any = self.gate.mass
        alive = torch.cat([mass.reshape(-1) != 0, mass.new_ones(1, dtype=torch.bool)])
        dead = ~alive[self.places.to(mass.device)]
        self.addend = torch.zeros(dead.shape, device=mass.device).masked_fill(dead, float("-inf"))
        # A router that is gated itself has to read the very tensor that is looked for.
        stack = ExitStack()
        stack.enter_context(parametrize.cached())
        self.cached.append(stack)
        super().enter(module, inputs)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Stop, after it ran or failed."""
        super().leave(module, inputs, output)
        self.cached.pop().close()


def unwatch(module: nn.Module) -> None:
    """Take the hooks of every :class:`Way` off a module."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), Way):
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)
