"""The way to an expert closes when its mass reaches 0: its router never chooses it again.

An expert of mass 0 that is still chosen would take the share of one that counts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from natsel.communities.gates.modules import weights_of
from natsel.communities.gates.observers import Observer
from natsel.communities.gates.weights import Gate, GatedWeight
from natsel.communities.routers import Closing, Router


class Way(Closing, Observer):
    """A pair of hooks on a router, that looks at the masses of the experts whenever it runs.

    Args:
        router: what it chooses by.
        gate: holds the masses.
        places: for each row of the weight, the place of its expert among the masses; one place
            more than there are where it is always open.
    """

    def __init__(self, router: Router, gate: Gate, places: Tensor) -> None:
        super().__init__(router, torch.zeros(len(places), dtype=torch.bool))
        self.gate = gate
        self.places = places
        self.pinning: list[GatedWeight | None] = []

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """Close what has died, before the router runs."""
        mass = self.gate.mass
        alive = torch.cat([mass.reshape(-1) != 0, mass.new_ones(1, dtype=torch.bool)])
        dead = ~alive[self.places.to(mass.device)]
        self.addend = torch.zeros(dead.shape, device=mass.device).masked_fill(dead, float("-inf"))
        # A router that is gated itself has to read the very tensor that is looked for.
        path, _, attribute = self.router.weight.rpartition(".")
        holder = module.get_submodule(path)
        weight = (weights_of(holder) or {}).get(attribute)
        if weight is not None:
            weight.pinned.append(getattr(holder, attribute))
        self.pinning.append(weight)
        super().enter(module, inputs)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Stop, after it ran or failed."""
        super().leave(module, inputs, output)
        weight = self.pinning.pop()
        if weight is not None:
            weight.pinned.pop()
