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
    generator = entries.generator
    options = {"dtype": torch.float64, "device": generator.device, "generator": generator}
    return torch.rand(entries.positions.shape, **options).to(entries.keys.device)
