"""Who survives: scores and a budget give survivors, exactly."""

from natsel.selection.budget import CostBudget, Gauge, MACs, Parameters, Sparsity
from natsel.selection.holding import Hold, hold
from natsel.selection.latency import Latency
from natsel.selection.select import select
from natsel.selection.structure import NM, Blocks
from natsel.selection.survivors import PackedSurvivors, Survivors
from natsel.selection.zeroing import zero_
from natsel.single_weights.weights import Weights, weights

__all__ = [
    "NM",
    "Blocks",
    "CostBudget",
    "Gauge",
    "Hold",
    "Latency",
    "MACs",
    "PackedSurvivors",
    "Parameters",
    "Sparsity",
    "Survivors",
    "Weights",
    "hold",
    "select",
    "weights",
    "zero_",
]
