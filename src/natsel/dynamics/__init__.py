"""How masses evolve: the laws of selection, one file each, in one table.

Importing this package fills the table; ``get`` finds a law by its name.
"""

from natsel.dynamics.competition import competition, crowding
from natsel.dynamics.logistic import logistic
from natsel.dynamics.lotka_volterra import lotka_volterra
from natsel.dynamics.participation import participation
from natsel.dynamics.registry import DYNAMICS, Dynamic, Step, get, register
from natsel.dynamics.replicator import replicator
from natsel.dynamics.replicator_mutator import replicator_mutator
from natsel.dynamics.wright_fisher import wright_fisher

__all__ = [
    "DYNAMICS",
    "Dynamic",
    "Step",
    "competition",
    "crowding",
    "get",
    "logistic",
    "lotka_volterra",
    "participation",
    "register",
    "replicator",
    "replicator_mutator",
    "wright_fisher",
]
