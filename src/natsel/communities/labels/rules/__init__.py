"""How each operator treats labels: one short function per operator, one file per family.

Importing this package fills the table; :func:`natsel.rule` adds to it.
"""

from natsel.communities.labels.rules import (
    attention,
    contraction,
    derived,
    elementwise,
    normalization,
    recurrent,
    reduction,
    routing,
    shape,
    weights,
)

__all__ = [
    "attention",
    "contraction",
    "derived",
    "elementwise",
    "normalization",
    "recurrent",
    "reduction",
    "routing",
    "shape",
    "weights",
]
