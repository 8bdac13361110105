"""Evolution over whole networks: who gives how much, over all kinds, under one budget."""

from natsel.levels.evolve import evolve_levels as evolve_levels
from natsel.levels.result import Levels as Levels
from natsel.levels.shares import Shares as Shares

__all__ = ["Levels", "Shares", "evolve_levels"]
