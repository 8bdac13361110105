"""What a user holds while tokens compete: who lives, for which places, and the end of it."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.common.numbers import is_whole
from natsel.live_populations.attached import Attached
from natsel.live_populations.tokens.hooks import hooked
from natsel.live_populations.tokens.session import Input, Session, spread_features


class LiveTokens(Attached):
    """Live populations among the tokens of a vision transformer, from here to ``close()``.

    Everything it tells is of the last input. *Places* are the tokens before anybody left, the
    class token among them; *tokens* are those who live.
    """

    def __init__(self, session: Session) -> None:
        blocks = session.found.blocks
        for module in blocks:
            if (name := self.method_in(module)) is not None:
                allowed = f"a model whose tokens no other method thins: close() that of {name!r}"
                refuse("model", session.found.name, allowed)
        super().__init__(session.method.name, tuple(blocks), hooked(session, blocks))
        self._session: Session = session

    def __repr__(self) -> str:
        if self._session.now is None:
            return f"LiveTokens({self._session.method.name}: no input yet)"
        return (
            f"LiveTokens({self._session.method.name}: {self.num_held} of {self.num_seen} tokens "
            f"of each input held)"
        )

    @property
    def num_prefix(self) -> int:
        """How many of the first tokens stand for no place of the image, and stay."""
        return self._session.num_prefix

    @property
    def num_seen(self) -> int:
        """Tokens of each input before anybody left."""
        return self._input.num_tokens

    @property
    def num_held(self) -> int:
        """Tokens of each input that are left at the end."""
        return self._input.held(self._last)

    @property
    def leaving(self) -> dict[int, int]:
        """How many tokens of each input leave, by block."""
        return dict(self._input.counts)

    def held(self, block: int) -> int:
        """Return how many tokens of each input go out of a block.

        Raises:
            ValueError: if there is no such block, or no input was seen yet.
        """
        return self._input.held(self._checked(block))

    def owners(self, block: int | None = None) -> Tensor:
        """Return which token stands for each place.

        Args:
            block: after which one; None for the last.

        Returns:
            ``[batch, places]``, indices of tokens that live, -1 for a place that is gone.

        Raises:
            ValueError: if there is no such block, or no input was seen yet.
        """
        return self._input.owners(self._checked(block))

    def places(self, block: int | None = None) -> Tensor:
        """Return for each token that lives the places it stands for.

        Args:
            block: after which one; None for the last.

        Returns:
            bool ``[batch, tokens, places]``; in each column at most one is True.

        Raises:
            ValueError: if there is no such block, or no input was seen yet.
        """
        owners = self.owners(block)
        tokens = torch.arange(self._input.held(self._checked(block)), device=owners.device)
        return owners[:, None, :] == tokens[None, :, None]

    def positions(self, block: int | None = None) -> Tensor:
        """Return the place that each token that lives came from, ``[batch, tokens]``, ascending.

        Args:
            block: after which one; None for the last.

        Raises:
            ValueError: if there is no such block, or no input was seen yet.
        """
        return self._input.places(self._checked(block))

    def mass(self) -> Tensor:
        """Return the mass of each token at the end, ``[batch, tokens]``.

        Where tokens merge, it is the number of places that a token stands for.
        """
        now = self._input
        if now.mass is None:
            return torch.ones(now.rows, self.num_held, dtype=torch.int64)
        return now.mass

    def spread(self, features: Tensor, fill: float = 0.0, *, block: int | None = None) -> Tensor:
        """Return for every place what is told of the token that stands for it.

        Args:
            features: of the tokens that live, ``[batch, tokens, ...]``.
            fill: what is told of a place that is gone.
            block: after which one; None for the last.

        Returns:
            ``[batch, places, ...]``.

        Raises:
            ValueError: if these are not as many tokens as live there.
        """
        owners = self.owners(block)
        held = self._input.held(self._checked(block))
        expected = (owners.shape[0], held)
        if not isinstance(features, Tensor) or tuple(features.shape[:2]) != expected:
            refuse("features", features, f"a tensor of shape [{owners.shape[0]}, {held}, ...]")
        return spread_features(features, owners, fill)

    @property
    def _last(self) -> int:
        return len(self._session.found.blocks) - 1

    @property
    def _input(self) -> Input:
        if self._session.now is None:
            raise ValueError("nothing is held: expected a call of the model before")
        return self._session.now

    def _checked(self, block: int | None) -> int:
        if block is None:
            return self._last
        if not is_whole(block, 0) or block > self._last:
            refuse("block", block, f"the index of a block, 0 to {self._last}")
        return block
