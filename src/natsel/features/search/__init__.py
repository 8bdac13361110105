"""Search of fusion weights: optimizers that are asked for candidates and told their values."""

from natsel.features.search.cma_es import CMAES
from natsel.features.search.dbo import DungBeetle
from natsel.features.search.random import RandomSearch
from natsel.features.search.registry import OPTIMIZERS, Optimizer, maximise, optimizer

__all__ = [
    "CMAES",
    "OPTIMIZERS",
    "DungBeetle",
    "Optimizer",
    "RandomSearch",
    "maximise",
    "optimizer",
]
