"""Evolution over whole networks: who gives how much, over all kinds, under one budget."""

from natsel.levels.evolve import evolve_levels as evolve_levels
from natsel.levels.result import Levels as Levels

__all__ = ["Levels", "evolve_levels"]
