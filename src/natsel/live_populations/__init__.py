"""Populations that live for one input: born with it, compete, die with it.

Importing this package fills the table of methods.
"""

import natsel.live_populations.methods as methods
from natsel.live_populations.allowances import Bytes, Held
from natsel.live_populations.entries import Call, Entries
from natsel.live_populations.experts import EXPERT_METHODS, Choices, ExpertMethod
from natsel.live_populations.live import live
from natsel.live_populations.needs import needs_of_heads
from natsel.live_populations.proof import prove
from natsel.live_populations.registry import METHODS, Method, Scorer, get, register
from natsel.live_populations.tokens import TOKEN_METHODS, Merges, TokenMethod, Tokens

__all__ = [
    "EXPERT_METHODS",
    "METHODS",
    "TOKEN_METHODS",
    "Bytes",
    "Call",
    "Choices",
    "Entries",
    "ExpertMethod",
    "Held",
    "Merges",
    "Method",
    "Scorer",
    "TokenMethod",
    "Tokens",
    "get",
    "live",
    "methods",
    "needs_of_heads",
    "prove",
    "register",
]
