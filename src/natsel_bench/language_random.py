"""A scorer of chance, beside which others are seen: each population is as likely to go."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from natsel.fitness import Fitness, Parts


def chance(parts: Parts) -> Tensor:
    """Return numbers of chance, ``[size]``: the same for the same weights.

    Example:
        >>> import natsel
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> natsel.score(natsel.discover(model, torch.ones(1, 4)), random)["0"].shape
        torch.Size([8])
    """
    parts_seen = (*parts.consumers, *parts.producers)
    told = parts_seen[0].weight.detach().float().flatten()[:64].cpu().contiguous()
    generator = torch.Generator().manual_seed(zlib.crc32(told.numpy().tobytes()))
    return torch.rand(len(parts.mass), generator=generator).to(parts.mass.device)


random = Fitness("random", chance)
