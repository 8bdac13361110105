"""CMA-ES, from the ``cma`` package, behind the common interface."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from natsel.common.extras import require
from natsel.features.search.random import uniform

START_SPREAD = 0.5


class CMAES:
    """Covariance matrix adaptation in the box [-1, 1]^d (Hansen, 1604.00772).

    In one dimension, which the package does not know, it is a random search.

    Args:
        dimension: d.
        generations: not used.
        population: candidates each time.
        generator: seeds the package's draws; numpy's global state is left alone.

    Raises:
        MissingExtraError: if ``cma`` is not installed.
    """

    def __init__(
        self, dimension: int, *, generations: int, population: int, generator: torch.Generator
    ) -> None:
        with warnings.catch_warnings():
            # It misses matplotlib, which nothing here draws with.
            warnings.simplefilter("ignore", UserWarning)
            cma = require("cma", "search")
        self.dimension = dimension
        self.population = population
        self.generator = generator
        seed = int(torch.randint(2**31, (), generator=generator))
        draws = np.random.default_rng(seed)
        options = {
            "bounds": [-1, 1],
            "popsize": population,
            "randn": lambda *shape: draws.standard_normal(shape),
            "seed": np.nan,
            "verbose": -9,
        }
        self._strategy = (
            cma.CMAEvolutionStrategy([0.0] * dimension, START_SPREAD, options)
            if dimension > 1
            else None
        )

    def ask(self) -> Tensor:
        """Return the next candidates."""
        if self._strategy is None:
            return uniform(self.population, self.dimension, self.generator)
        return torch.from_numpy(np.stack(self._strategy.ask())).double()

    def tell(self, candidates: Tensor, values: Tensor) -> None:
        """Learn what they are worth."""
        if self._strategy is not None:
            self._strategy.tell(list(candidates.numpy()), [-float(v) for v in values])
