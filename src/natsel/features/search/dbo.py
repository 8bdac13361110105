"""The dung beetle optimizer: four kinds of beetles, each with a way of its own to move.

Source: Xue & Shen, Dung beetle optimizer, The Journal of Supercomputing 79, 2023. The shares and
constants are those of the article.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from natsel.features.search.random import uniform

ROLLERS, BROOD, FORAGERS = 0.2, 0.2, 0.25
"""Shares of the population that roll balls, are brood, and forage; the rest steals."""
DEFLECTION, PULL = 0.1, 0.3
"""How much of the last step a roller repeats (k), and how much it leaves the worst place (b)."""
STRAY, GREED = 0.1, 0.5
"""How often a roller meets an obstacle and turns, and how far thieves leap (S)."""


class DungBeetle:
    """Dung beetle optimizer in the box [-1, 1]^d.

    Args:
        dimension: d.
        generations: how often it will be asked: brood and foragers narrow down with time.
        population: how many beetles.
        generator: where all its randomness comes from.
    """

    def __init__(
        self, dimension: int, *, generations: int, population: int, generator: torch.Generator
    ) -> None:
        self.generator = generator
        self.generations = generations
        self.time = 0
        self.place = uniform(population, dimension, generator)
        self.before = self.place.clone()
        self.own_best = self.place.clone()
        self.own_value = torch.full((population,), -math.inf, dtype=torch.float64)
        self.value = self.own_value.clone()

    def ask(self) -> Tensor:
        """Return the next candidates: at first where the beetles are, later where they go."""
        if self.time == 0:
            return self.place.clone()
        place, size = self.own_best, len(self.own_best)
        rollers = max(1, round(ROLLERS * size))
        brood = rollers + max(1, round(BROOD * size)) if size > 1 else rollers
        foragers = brood + round(FORAGERS * size)
        best = self.own_best[int(self.own_value.argmax())]
        local = self.place[int(self.value.argmax())]
        narrowing = max(0.0, 1 - self.time / self.generations)
        moved = torch.cat(
            (
                self._roll(place[:rollers], self.before[:rollers]),
                self._lay(place[rollers:brood], local, narrowing),
                self._forage(place[brood:foragers], best, narrowing),
                self._steal(place[foragers:], local, best),
            )
        )
        return moved.clamp(-1, 1)

    def tell(self, candidates: Tensor, values: Tensor) -> None:
        """Learn what the places are worth."""
        self.before = self.own_best.clone()
        self.place, self.value = candidates.clone(), values.double().clone()
        better = self.value > self.own_value
        self.own_best[better] = self.place[better]
        self.own_value[better] = self.value[better]
        self.time += 1

    def _roll(self, x: Tensor, before: Tensor) -> Tensor:
        """Go on as before and away from the worst place; at an obstacle, turn by an angle."""
        worst = self.place[int(self.value.argmin())]
        sign = torch.where(self._uniform(len(x), 1) > 0.1, 1.0, -1.0)
        ahead = x + sign * DEFLECTION * before + PULL * (x - worst).abs()
        angle = math.pi * self._uniform(len(x), 1)
        turned = x + angle.tan().clamp(-10, 10) * (x - before).abs()
        return torch.where(self._uniform(len(x), 1) < STRAY, turned, ahead)

    def _lay(self, x: Tensor, local: Tensor, narrowing: float) -> Tensor:
        """Lay balls around the best place of this generation, nearer and nearer."""
        low, high = _region(local, narrowing)
        first, second = self._uniform(*x.shape), self._uniform(*x.shape)
        balls = local + first * (x - low) + second * (x - high)
        return torch.minimum(torch.maximum(balls, low), high)

    def _forage(self, x: Tensor, best: Tensor, narrowing: float) -> Tensor:
        """Look for food around the best place ever."""
        low, high = _region(best, narrowing)
        return x + self._normal(len(x), 1) * (x - low) + self._uniform(*x.shape) * (x - high)

    def _steal(self, x: Tensor, local: Tensor, best: Tensor) -> Tensor:
        """Leap at the best place, as far as one is from it."""
        return best + GREED * self._normal(*x.shape) * ((x - local).abs() + (x - best).abs())

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)


def _region(centre: Tensor, narrowing: float) -> tuple[Tensor, Tensor]:
    """Return the box around a place that shrinks to it: [x (1 - R), x (1 + R)], in order."""
    ends = torch.stack((centre * (1 - narrowing), centre * (1 + narrowing)))
    return ends.amin(0).clamp(-1, 1), ends.amax(0).clamp(-1, 1)
