"""natsel: prune neural networks by natural selection."""

from natsel.communities import Communities, Community, Cost, Refusal, discover, rule
from natsel.evolution import Evolution
from natsel.extraction import export_onnx, extract, save, verify
from natsel.fitness import score
from natsel.io import load
from natsel.selection import Sparsity, Survivors, select

__version__ = "0.1.0"

__all__ = [
    "Communities",
    "Community",
    "Cost",
    "Evolution",
    "Refusal",
    "Sparsity",
    "Survivors",
    "discover",
    "export_onnx",
    "extract",
    "load",
    "rule",
    "save",
    "score",
    "select",
    "verify",
]
