"""Tokens of a vision transformer: born with an image, they compete block after block.

Importing this package fills the table of methods.
"""

import natsel.live_populations.tokens.methods as methods
from natsel.live_populations.tokens.registry import (
    TOKEN_METHODS,
    TokenMethod,
    TokenScorer,
    get,
    register,
)
from natsel.live_populations.tokens.tokens import Attended, Merges, Tokens

__all__ = [
    "TOKEN_METHODS",
    "Attended",
    "Merges",
    "TokenMethod",
    "TokenScorer",
    "Tokens",
    "get",
    "methods",
    "register",
]
