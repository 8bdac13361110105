"""Populations that live for one input: born with it, compete, die with it.

Importing this package fills the table of methods.
"""

import natsel.live_populations.methods as methods
from natsel.live_populations.allowances import Bytes, Held
from natsel.live_populations.entries import Call, Entries
from natsel.live_populations.live import live
from natsel.live_populations.proof import prove
from natsel.live_populations.registry import METHODS, Method, Scorer, get, register
from natsel.live_populations.tokens import TOKEN_METHODS, Merges, TokenMethod, Tokens

__all__ = [
    "METHODS",
    "TOKEN_METHODS",
    "Bytes",
    "Call",
    "Entries",
    "Held",
    "Merges",
    "Method",
    "Scorer",
    "TokenMethod",
    "Tokens",
    "get",
    "live",
    "methods",
    "prove",
    "register",
]
