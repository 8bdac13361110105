"""Lightning: its Trainer evolves a model, or keeps zeros, by a callback."""

from natsel.integrations.lightning.callbacks import EvolutionCallback, HoldCallback

__all__ = ["EvolutionCallback", "HoldCallback"]
