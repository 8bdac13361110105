"""Who survives: scores and a budget give survivors, exactly."""

from natsel.selection.budget import MACs, Parameters, Sparsity
from natsel.selection.latency import Latency
from natsel.selection.select import select
from natsel.selection.survivors import Survivors

__all__ = ["Latency", "MACs", "Parameters", "Sparsity", "Survivors", "select"]
