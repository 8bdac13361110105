"""Masses over time, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MAX_RECORDS = 256
MAX_ELEMENTS = 1 << 22


class Trajectory:
    """Keeps masses at evenly spaced steps; when full, it drops every second and doubles the space.

    Args:
        num_populations: how many masses a record has.
    """

    def __init__(self, num_populations: int) -> None:
        self.capacity = max(8, min(MAX_RECORDS, MAX_ELEMENTS // max(num_populations, 1)))
        self.interval = 1
        self._steps: list[int] = []
        self._records: list[Tensor] = []

    def record(self, step: int, masses: Tensor) -> None:
        """Keep the masses ``[num_populations]`` of one step, to three digits (float16)."""
        if step % self.interval:
            return
        self._steps.append(step)
        self._records.append(masses.detach().to("cpu", torch.float16, copy=True))
        if len(self._steps) >= self.capacity:
            self.interval *= 2
            kept = [i for i, s in enumerate(self._steps) if s % self.interval == 0]
            self._steps = [self._steps[i] for i in kept]
            self._records = [self._records[i] for i in kept]

    @property
    def steps(self) -> Tensor:
        """The recorded steps, int64 ``[T]``."""
        return torch.tensor(self._steps, dtype=torch.int64)

    @property
    def masses(self) -> Tensor:
        """The recorded masses, ``[T, num_populations]``."""
        return torch.stack(self._records).float() if self._records else torch.empty(0, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the records as plain tensors."""
        return {"interval": self.interval, "steps": self.steps, "masses": self.masses}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved records."""
        self.interval = int(state["interval"])
        self._steps = [int(s) for s in state["steps"]]
        self._records = [row.half() for row in state["masses"]]
