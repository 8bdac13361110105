"""Rounds of selection among tokens: block after block, for as long as one input lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from natsel.common.errors import NonFiniteError, refuse
from natsel.live_populations.allowances import Held
from natsel.live_populations.tokens import moves
from natsel.live_populations.tokens.finding import Found
from natsel.live_populations.tokens.moves import Move
from natsel.live_populations.tokens.pace import num_leaving, spread_over
from natsel.live_populations.tokens.registry import TokenMethod
from natsel.live_populations.tokens.tokens import Attended, Merges, Tokens
from natsel.selection import Sparsity


@dataclass
class Input:
    """What became of the tokens of one input (a batch of them).

    Attributes:
        rows: of the batch.
        num_tokens: before anybody leaves.
        counts: how many leave at each block.
        mass: how many places each token stands for, ``[batch, tokens]``; None for 1.
        moves: what happened, by block.
    """

    rows: int
    num_tokens: int
    counts: Mapping[int, int]
    mass: Tensor | None = None
    moves: dict[int, Move] = field(default_factory=dict)

    def held(self, block: int) -> int:
        """Return how many tokens go out of a block."""
        return self.num_tokens - sum(n for b, n in self.counts.items() if b <= block)

    def owners(self, block: int) -> Tensor:
        """Return which token stands for each place after a block, ``[batch, places]``; -1: none."""
        found = torch.arange(self.num_tokens).expand(self.rows, -1)
        for at, move in self.moves.items():
            if at <= block:
                found = found.to(move.kept.device)
                slots = move.slots(self.held(at) + self.counts[at])
                found = slots.gather(1, found.clamp(min=0)).masked_fill(found < 0, -1)
        return found

    def places(self, block: int) -> Tensor:
        """Return the place that each token came from, ``[batch, tokens]``."""
        found = torch.arange(self.num_tokens).expand(self.rows, -1)
        for at, move in self.moves.items():
            if at <= block:
                found = found.to(move.kept.device).gather(1, move.kept)
        return found


@dataclass
class Session:
    """A method at work on a vision transformer.

    Attributes:
        method: who is fit.
        budget: how much goes.
        found: where tokens live.
        blocks: at which they leave.
        pace: how what leaves spreads over them.
        merge: whether who leaves gives its mass to who is nearest.
        fuse: whether those who leave become one token.
        spread: whether the last block gives features for every place.
        generator: the only source of chance.
        now: the input that lives, or was the last to live.
    """

    method: TokenMethod
    budget: Sparsity | Held
    found: Found
    blocks: tuple[int, ...]
    pace: str
    merge: bool
    fuse: bool
    spread: bool
    generator: torch.Generator
    now: Input | None = None
    _plans: dict[int, dict[int, int]] = field(default_factory=dict)

    @property
    def num_prefix(self) -> int:
        """How many of the first tokens stand for no place."""
        return self.found.num_prefix

    def begin(self, stream: Tensor) -> None:
        """Let the tokens of an input be born.

        Args:
            stream: what the first block is given, ``[batch, tokens, width]``.
        """
        rows, num = stream.shape[:2]
        if num not in self._plans:
            prefix = self.found.num_prefix
            if num <= prefix:
                refuse("prefix", prefix, f"fewer than the {num} tokens of an input")
            total = num_leaving(self.budget, num, prefix)
            most = self.method.most
            self._plans[num] = spread_over(total, self.blocks, num, prefix, self.pace, most)
        self.now = Input(rows, num, self._plans[num])

    def expected(self, block: int) -> int:
        """Return how many tokens come to a block."""
        return self.living.held(block - 1)

    def bias(self, block: int, stream: Tensor) -> Tensor | None:
        """Return what is added to the logits of each key: the logarithm of its mass."""
        mass = self.living.mass
        if mass is None:
            return None
        return mass.to(torch.promote_types(stream.dtype, torch.float32)).log()

    def leaves(self, block: int) -> bool:
        """Tell whether somebody leaves at a block."""
        return self.living.counts.get(block, 0) > 0

    def reduced(self, block: int, stream: Tensor, attended: Attended | None) -> Tensor:
        """Return the stream without those who leave at a block.

        Args:
            block: which one.
            stream: after its attention, ``[batch, tokens, width]``.
            attended: what attention was computed from; None before the first block.
        """
        now, prefix = self.living, self.found.num_prefix
        tokens = Tokens(
            stream.detach(),
            now.mass,
            prefix,
            self.found.has_class,
            now.counts[block],
            block,
            self.generator,
            attended,
        )
        with torch.no_grad():
            move = self._move(tokens)
        now.moves[block] = move
        mass = now.mass
        if mass is None and move.adds_mass:
            mass = torch.ones(stream.shape[:2], dtype=torch.int64, device=stream.device)
        features, now.mass = moves.moved(stream, mass, move)
        return features

    def ended(self, stream: Tensor) -> Tensor:
        """Return what the last block gives: where asked for, features for every place."""
        if not self.spread or not self.living.moves:
            return stream
        return spread_features(stream, self.living.owners(len(self.found.blocks)))

    @property
    def living(self) -> Input:
        """The input that lives.

        Raises:
            ValueError: if there was none: a later block was called on its own.
        """
        if self.now is None:
            refuse("model", "a block that was called alone", "a call of the whole model before")
        return self.now

    def _move(self, tokens: Tokens) -> Move:
        given = self.method.score(tokens)
        hosts = given.hosts if isinstance(given, Merges) else None
        scores = given.scores if isinstance(given, Merges) else given
        shape = tuple(tokens.features.shape[:2])
        for each in (scores,) if hosts is None else (scores, hosts):
            if not isinstance(each, Tensor) or tuple(each.shape) != shape:
                gave = tuple(each.shape) if isinstance(each, Tensor) else each
                refuse("method", self.method.name, f"scores of shape {shape}, this gave {gave}")
        free = scores[:, tokens.num_prefix :]
        if bool((free.isnan() | (free == -torch.inf)).any()):
            told = f"method {self.method.name!r} gave NaN or -infinity at block {tokens.block}"
            raise NonFiniteError(told)
        going = (tokens.num_leaving, tokens.num_prefix)
        if hosts is not None:
            return moves.merged(scores, hosts, *going)
        if self.merge:
            return moves.nearest(scores, tokens.unit_keys(), *going)
        if self.fuse:
            if bool((free < 0).any()):
                told = f"{self.method.name!r}, whose scores are no shares"
                refuse("fuse", True, f"False for method {told}")
            return moves.fused(scores, *going)
        return moves.dropped(scores, *going)


def spread_features(features: Tensor, owners: Tensor, fill: float = 0.0) -> Tensor:
    """Return for every place what is told of the token that stands for it.

    Args:
        features: ``[batch, tokens, ...]``.
        owners: ``[batch, places]``, -1 where nobody stands for it.
        fill: what is told there.
    """
    owners = owners.to(features.device)
    found = moves.rows_of(features, owners.clamp(min=0))
    if not bool((owners < 0).any()):
        return found
    return found.masked_fill(
        owners.reshape(*owners.shape, *(1 for _ in features.shape[2:])) < 0, fill
    )
