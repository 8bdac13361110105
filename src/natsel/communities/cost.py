"""What a population, or a whole model, costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What one population costs while all others are there, or what a whole model costs.

    Attributes:
        parameters: elements of parameters (not of buffers).
        macs: multiply-accumulates per sample.
    """

    parameters: int
    macs: float
