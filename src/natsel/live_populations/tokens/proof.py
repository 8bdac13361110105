"""That what lives computes what all places compute: the gone hidden, the merged as duplicates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from natsel.common.errors import refuse
from natsel.common.modes import evaluating
from natsel.communities.proof.doubled import in_float64
from natsel.extraction import Verification
from natsel.live_populations.proof_verdict import verdict
from natsel.live_populations.tokens import moves
from natsel.live_populations.tokens.attach import session_of
from natsel.live_populations.tokens.handle import LiveTokens
from natsel.live_populations.tokens.hooks import hooked
from natsel.live_populations.tokens.session import Input, spread_features
from natsel.live_populations.tokens.tokens import Attended

ENGINE = ("blocks", "pace", "merge", "fuse", "spread", "prefix", "seed")
"""Arguments of :func:`natsel.live` that are no options of a method."""


class Everybody:
    """All places go through the model, as those decided who lived before.

    Who is gone is hidden from attention by -inf. Who has merged goes on as so many duplicates of
    what it merged into, one a place, each with mass 1: proportional attention, spelled out.

    Args:
        lived: what became of the tokens of the same input.
        num_prefix: how many of the first stand for no place.
        depth: how many blocks there are.
        spread: whether the last block gave features for every place.
    """

    def __init__(self, lived: Input, num_prefix: int, depth: int, *, spread: bool) -> None:
        self.lived = lived
        self.num_prefix = num_prefix
        self.depth = depth
        self.spread = spread

    def begin(self, stream: Tensor) -> None:
        """Nothing begins: everything is decided."""

    def expected(self, block: int) -> int:
        """Return how many places there are."""
        return self.lived.num_tokens

    def bias(self, block: int, stream: Tensor) -> Tensor | None:
        """Hide the places that nobody lives at, and that are nobody's duplicates."""
        if not any(at < block for at in self.lived.moves):
            return None
        if any(move.adds_mass for move in self.lived.moves.values()):
            return None
        at = self.lived.places(block - 1).to(stream.device)
        hidden = torch.full(stream.shape[:2], -torch.inf).to(stream.device)
        return hidden.scatter(1, at, 0.0)

    def leaves(self, block: int) -> bool:
        """Tell whether places are duplicates of others after a block."""
        move = self.lived.moves.get(block)
        return move is not None and move.hosts is not None

    def reduced(self, block: int, stream: Tensor, attended: Attended | None) -> Tensor:
        """Let every place go on as who it merged into."""
        tokens = self._tokens(stream, block - 1)
        before, move = self.lived.owners(block - 1), self.lived.moves[block]
        width = tokens.shape[1]
        mass = None
        if move.adds_mass:
            index = before.clamp(min=0)
            mass = torch.zeros(before.shape[0], width, dtype=torch.int64, device=before.device)
            mass.scatter_add_(1, index, (before >= 0).long())
        found, _ = moves.moved(tokens, mass, move)
        if move.adds_mass:
            return spread_features(found, self.lived.owners(block))
        at = self.lived.places(block)[..., None].expand(-1, -1, stream.shape[-1])
        return stream.scatter(1, at, found)

    def ended(self, stream: Tensor) -> Tensor:
        """Return what the last block gave when they competed."""
        found = self._tokens(stream, self.depth)
        if not self.spread or not self.lived.moves:
            return found
        return spread_features(found, self.lived.owners(self.depth))

    def _tokens(self, stream: Tensor, block: int) -> Tensor:
        at = self.lived.places(block).to(stream.device)
        return stream.gather(1, at[..., None].expand(-1, -1, stream.shape[-1]))


def prove(
    model: nn.Module,
    method: Any,
    budget: object,
    inputs: Tensor,
    **arguments: Any,
) -> Verification:
    """Compare tokens that left with all places of the same model, in float64.

    Args:
        model: a vision transformer, which is left as it is.
        method: as of :func:`natsel.live`.
        budget: as of :func:`natsel.live`.
        inputs: images.
        arguments: as of :func:`natsel.live`.

    Returns:
        The verdict; ``effect`` is what thinning changes of the outputs.

    Raises:
        ValueError: if an argument is not allowed.
    """
    if not isinstance(inputs, Tensor):
        refuse("inputs", inputs, "a tensor that the model reads")
    engine = {name: arguments.pop(name) for name in ENGINE if name in arguments}
    session = session_of(model, method, budget, **engine, options=arguments)
    with evaluating(model), in_float64():
        with LiveTokens(session):
            thinned = _outputs(model(inputs))
        depth = len(session.found.blocks)
        reference = Everybody(session.living, session.num_prefix, depth, spread=session.spread)
        handles = hooked(reference, session.found.blocks)
        try:
            hidden = _outputs(model(inputs))
        finally:
            for handle in handles:
                handle.remove()
        whole = _outputs(model(inputs))
    return verdict(thinned, hidden, whole, what="outputs")


def _outputs(given: Any) -> list[Tensor]:
    leaves = tree_leaves(tuple(given.values()) if isinstance(given, Mapping) else given)
    return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]
