"""Which samples a step reads: a function of the seed and the number of the step."""

from __future__ import annotations

import torch
from torch import Tensor

_MANY = 1_000_003


def seed_of(seed: int, number: int) -> int:
    """Return the seed of the part of a run that has a number."""
    return (seed * _MANY + number) % (2**63 - 1)


def chosen(step: int, batch: int, size: int, seed: int) -> Tensor:
    """Return the numbers of the samples that a step reads.

    All samples come once, in an order of chance, before any comes again in the next pass.

    Args:
        step: from 0.
        batch: samples of a step.
        size: how many samples there are.
        seed: of the order.

    Returns:
        int64 ``[batch]``.

    Example:
        >>> torch.cat([chosen(step, 2, 4, seed=0) for step in range(2)]).sort().values
        tensor([0, 1, 2, 3])
    """
    places = torch.arange(step * batch, (step + 1) * batch)
    passes = places // size
    found = torch.empty(batch, dtype=torch.long)
    for number in sorted(set(passes.tolist())):
        generator = torch.Generator().manual_seed(seed_of(seed, number))
        here = passes == number
        found[here] = torch.randperm(size, generator=generator)[places[here] % size]
    return found
