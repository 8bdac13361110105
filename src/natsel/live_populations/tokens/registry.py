"""The one table of methods by which tokens compete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from natsel.common.registry import Registry
from natsel.live_populations.registry import bound, check_options, looked_up
from natsel.live_populations.tokens.tokens import Merges, Tokens

TokenScorer = Callable[[Tokens], Tensor | Merges]
"""A function from tokens to one score each, ``[batch, tokens]``, or to :class:`Merges`."""


@dataclass(frozen=True)
class TokenMethod:
    """A scorer of tokens and what the engine needs to know to use it.

    Attributes:
        name: how users call it.
        score: the scorer; keyword-only arguments are options of users.
        needs_class: whether it reads the class token.
        most: how many of the tokens that may leave it can let go at once; None for all.
    """

    name: str
    score: Callable[..., Tensor | Merges]
    needs_class: bool = False
    most: Callable[[int], int] | None = None

    def bound(self, options: Mapping[str, Any]) -> TokenMethod:
        """Return the method with options of a user's.

        Raises:
            ValueError: if it has no such option.
        """
        if not options:
            return self
        check_options(self.name, options, self.score)
        return replace(self, score=bound(self.score, options))


TOKEN_METHODS: Registry[TokenMethod] = Registry("method")


def register(method: TokenMethod) -> TokenMethod:
    """Add a method to the table, so that it has a name.

    Args:
        method: the method.

    Returns:
        The same method.

    Raises:
        ValueError: if the name is taken.
    """
    return TOKEN_METHODS.add(method.name, method)


def get(method: str | TokenMethod | TokenScorer) -> TokenMethod:
    """Look a method up by its name; a method or a scorer of the user's own passes through.

    Args:
        method: a registered name, a :class:`TokenMethod`, a function from :class:`Tokens`, or
            ``module:name`` of one of these.

    Returns:
        The method.

    Raises:
        ValueError: if there is none of this name, or it is no function.

    Example:
        >>> get("class-attention").needs_class, get(lambda tokens: tokens.received()).name
        (True, '<lambda>')
    """
    return looked_up(method, TOKEN_METHODS, TokenMethod, "tokens")
