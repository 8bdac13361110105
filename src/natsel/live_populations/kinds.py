"""Which populations live in a model: the entries of a decoder's cache, or a ViT's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from natsel.common.errors import refuse
from natsel.live_populations.registry import METHODS, Method
from natsel.live_populations.tokens import TOKEN_METHODS, TokenMethod
from natsel.live_populations.tokens.finding import chains, is_decoder

CACHE: Mapping[str, Any] = {
    **{"sinks": None, "window": None, "floor": 1, "scope": None, "normalize": "method"},
    **{"heads": None, "decoding": True},
}
"""Arguments of a cache alone, and their defaults."""

TOKENS: Mapping[str, Any] = {
    **{"blocks": None, "pace": "even", "fuse": False, "spread": None, "prefix": None}
}
"""Arguments of tokens alone, and their defaults."""

OF_EXPERTS: Mapping[str, Any] = {"floor": 1, "scope": None, "seed": 0}
"""Arguments of experts, and their defaults."""


def are_tokens(model: nn.Module, method: object) -> bool:
    """Tell whether a method is for tokens: by its name, and where both have it, by the model.

    Example:
        >>> from natsel.models import ViT
        >>> vit = ViT((3, 8, 8), 2, dim=8, heads=2, depth=1)
        >>> are_tokens(vit, "merge"), are_tokens(vit, "random"), are_tokens(vit, "snapkv")
        (True, True, False)
    """
    if isinstance(method, TokenMethod | Method):
        return isinstance(method, TokenMethod)
    if isinstance(method, str) and (method in METHODS) != (method in TOKEN_METHODS):
        return method in TOKEN_METHODS
    return isinstance(model, nn.Module) and not is_decoder(model) and bool(chains(model))


def only(given: Mapping[str, Any], defaults: Mapping[str, Any], what: str) -> None:
    """Refuse an argument that means nothing for these populations.

    Args:
        given: arguments by name.
        defaults: of those that mean nothing here.
        what: who they are for.

    Raises:
        ValueError: if one was given.
    """
    for name, default in defaults.items():
        if given[name] != default:
            refuse(name, given[name], f"{default!r}: it is an argument for {what}")
