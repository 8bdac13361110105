"""The training-time loop: masses evolve under fitness while the network trains."""

from natsel.evolution.ecology import Ecology, Landing
from natsel.evolution.loop import Evolution
from natsel.evolution.populations import CEILING
from natsel.evolution.replicas import PartedError
from natsel.evolution.stateful import Stateful

__all__ = ["CEILING", "Ecology", "Evolution", "Landing", "PartedError", "Stateful"]
