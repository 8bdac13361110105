"""What can be selected: find populations in any module, price them, gate them with masses."""

from natsel.communities.as_program import as_program
from natsel.communities.community import (
    Communities,
    Community,
    Rebinding,
    Refusal,
    Slice,
)
from natsel.communities.cost import Cost
from natsel.communities.discover import discover
from natsel.communities.labels.propagation import rule
from natsel.communities.surgery.adapters import adapter

__all__ = [
    "Communities",
    "Community",
    "Cost",
    "Rebinding",
    "Refusal",
    "Slice",
    "adapter",
    "as_program",
    "discover",
    "rule",
]
