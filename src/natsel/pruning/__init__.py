"""One call for a model in memory: score, select, extract, verify, compensate."""

from natsel.pruning.evaluate import evaluate
from natsel.pruning.prune import carry_out, prune
from natsel.pruning.pruned import Change, Pruned
from natsel.pruning.shares import evolve_shares
from natsel.pruning.sparsified import Sparsified
from natsel.pruning.sparsify import sparsify

__all__ = [
    "Change",
    "Pruned",
    "Sparsified",
    "carry_out",
    "evaluate",
    "evolve_shares",
    "prune",
    "sparsify",
]
