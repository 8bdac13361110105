"""Attention received from all tokens; asks for no class token."""

from __future__ import annotations

from torch import Tensor

from natsel.live_populations.tokens.tokens import Tokens


def received(tokens: Tokens) -> Tensor:
    """Return the attention that each token receives, averaged over heads and queries."""
    return tokens.received()
