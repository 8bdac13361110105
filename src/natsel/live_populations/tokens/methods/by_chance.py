"""At random: what every other method has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.live_populations.tokens.tokens import Tokens


def by_chance(tokens: Tokens) -> Tensor:
    """Return uniform random numbers."""
    shape, at = tokens.features.shape[:2], tokens.generator
    drawn = torch.rand(shape, generator=at, dtype=torch.float64, device=at.device)
    return drawn.to(tokens.features.device)
