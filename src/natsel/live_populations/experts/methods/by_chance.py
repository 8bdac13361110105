"""At random among the chosen: what the router's share has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.live_populations.experts.choices import Choices


def by_chance(choices: Choices) -> Tensor:
    """Return uniform random numbers, one draw for each choice.

    Example:
        >>> from natsel.live_populations import EXPERT_METHODS
        >>> EXPERT_METHODS["router-random"].score is by_chance
        True
    """
    device = choices.generator.device
    shape = choices.experts.shape
    drawn = torch.rand(shape, generator=choices.generator, dtype=torch.float64, device=device)
    return drawn.to(choices.experts.device)
