"""Who survives: scores and a budget give survivors, exactly."""

from natsel.selection.budget import Sparsity
from natsel.selection.select import select
from natsel.selection.survivors import Survivors

__all__ = ["Sparsity", "Survivors", "select"]
