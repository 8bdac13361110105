"""Which community gets and which gives: drawn evenly, or from masses that evolve by success."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.dynamics.registry import Dynamic, Step, get
from natsel.levels.moves import Move

EVEN = 0.2
"""Share of the draws that stays even under a law: no site is shut out for good."""
RATE = 1.0
"""Time that passes in one generation."""


class Drawing:
    """Weights of sites, to get and to give.

    Under a law of natsel the sites are two communities of populations, one of those that get and
    one of those that give. Their masses start equal; after each generation the fitness of a site
    is the share of its siblings that a child with a move there beats, over the mean of all; sites
    without a move have the mean.

    Args:
        num_sites: how many.
        dynamics: a law of :mod:`natsel.dynamics`; None draws evenly.
    """

    def __init__(self, num_sites: int, dynamics: str | Dynamic | Step | None = None) -> None:
        self.law = None if dynamics is None else get(dynamics)
        if self.law is not None and self.law.competes:
            allowed = "a law without a competition matrix, such as 'replicator', or None"
            refuse("dynamics", self.law.name, allowed)
        start = 1.0 if self.law is None or self.law.space == "simplex" else 0.5
        self.mass = torch.full((2, num_sites), start, dtype=torch.float64)

    @property
    def getting(self) -> Tensor:
        """Weights of sites to get, ``[sites]``."""
        return self._weights(0)

    @property
    def giving(self) -> Tensor:
        """Weights of sites to give, ``[sites]``."""
        return self._weights(1)

    def learn(
        self, moves: Sequence[Move], values: Sequence[float], generator: torch.Generator
    ) -> None:
        """Let the masses evolve by what came of moves.

        Args:
            moves: of one generation.
            values: fitness of their children, lower is better; infinite for those that lost.
            generator: of laws that draw.
        """
        if self.law is None or len(moves) < 2:
            return
        beaten = [sum((v < w) + 0.5 * (v == w) for w in values) / len(values) for v in values]
        fitness = torch.full_like(self.mass, 0.5)
        for role in (0, 1):
            won: dict[int, list[float]] = {}
            for move, share in zip(moves, beaten, strict=True):
                for site in set(move.gives if role else move.gets):
                    won.setdefault(site, []).append(share)
            for site, shares in won.items():
                fitness[role, site] = math.fsum(shares) / len(shares)
        living = self.mass / self.mass.sum(1, keepdim=True)
        fitness = fitness / (fitness * living).sum(1, keepdim=True)
        self.mass = self.law.step(
            self.mass, fitness, RATE, pressure=self.law.pressure, generator=generator
        )

    def state(self) -> list[list[float]]:
        """Return the masses, as JSON holds them."""
        found: list[list[float]] = self.mass.tolist()
        return found

    def load(self, state: Any) -> None:
        """Take up what :meth:`state` returned."""
        self.mass = torch.tensor(state, dtype=torch.float64)

    def _weights(self, role: int) -> Tensor:
        mass = self.mass[role].clamp_min(0.0)
        total = float(mass.sum())
        share = mass / total if total > 0 else torch.full_like(mass, 1 / len(mass))
        return (1 - EVEN) * share + EVEN / len(mass)
