"""At random: what every other method has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.live_populations.entries import Entries


def by_chance(entries: Entries) -> Tensor:
    """Return uniform random numbers, one draw for each entry that lives.

    Example:
        >>> from natsel.live_populations import METHODS
        >>> METHODS["random"].score is by_chance
        True
    """
    drawn = torch.rand(
        entries.positions.shape,
        generator=entries.generator,
        dtype=torch.float64,
        device=entries.generator.device,
    )
    return drawn.to(entries.keys.device)
