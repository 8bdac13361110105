"""Populations that live for one input: born with it, compete, die with it.

Importing this package fills the table of methods.
"""

import natsel.live_populations.methods as methods
from natsel.live_populations.allowances import Bytes, Held
from natsel.live_populations.entries import Call, Entries
from natsel.live_populations.experts.choices import Choices
from natsel.live_populations.live import live
from natsel.live_populations.proof import prove
from natsel.live_populations.registry import METHODS, Method, Scorer, get, register

__all__ = [
    "METHODS",
    "Bytes",
    "Call",
    "Choices",
    "Entries",
    "Held",
    "Method",
    "Scorer",
    "get",
    "live",
    "methods",
    "prove",
    "register",
]
