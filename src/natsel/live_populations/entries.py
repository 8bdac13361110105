"""What a scorer sees: the live populations of one layer, and who asked for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.live_populations.weights import attention, blocks_of


@dataclass(frozen=True)
class Call:
    """The call of an attention module that a round of selection follows.

    Attributes:
        module: that was called.
        hidden_states: what it read, ``[batch, queries, width]``.
        arguments: what it was called with besides, by name.
        attentions: the weights that its attention implementation gave, or None.
        biased: whether its attention adds what :meth:`Entries.attention` knows nothing of, by the
            name of the argument; empty if it does not.
    """

    module: nn.Module
    hidden_states: Tensor
    arguments: Mapping[str, Any] = field(default_factory=dict)
    attentions: Tensor | None = None
    biased: str = ""


@dataclass
class Entries:
    """The entries of one layer's cache: a community for each key/value head of each input.

    Scores have the shape of ``positions``: ``[batch, heads, entries]``, higher is fitter.

    Attributes:
        keys: ``[batch, heads, entries, width]``, after the rotary embedding.
        values: ``[batch, heads, entries, width]``.
        positions: of the tokens in the input, ascending, ``[batch, heads, entries]``; -1 for a
            place that nobody lives at (padding, or a head that holds fewer than another).
        queries: the newest ones, ``[batch, query heads, queries, width]``.
        query_positions: ``[batch, queries]``, -1 for padding.
        num_new: how many queries, the last ones, are of this call.
        scaling: what their products with keys are multiplied by.
        softcap: what the logits are bounded to, or None.
        mass: what merging has given to entries, ``[batch, heads, entries]``; None for 1.
        window: how many of the newest entries stay in any case, for each input, ``[batch]``; a
            number stands for all.
        layer: which one it is.
        memory: what a method remembers of each entry, by its own names; it goes where they go.
        generator: the only source of chance.
        call: of the attention module.
        reread: the most attention that each entry got from one query when its tokens were read a
            second time, ``[batch, heads, entries]``, 0 for who came since; None if the method asks
            for no second reading.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor
    queries: Tensor
    query_positions: Tensor
    num_new: int
    scaling: float
    softcap: float | None = None
    mass: Tensor | None = None
    window: Tensor | int = 0
    layer: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=torch.Generator)
    call: Call | None = None
    reread: Tensor | None = None

    @property
    def alive(self) -> Tensor:
        """Where somebody lives, ``[batch, heads, entries]``."""
        return self.positions >= 0

    @property
    def newest(self) -> Tensor:
        """Which entries are the newest ``window`` of their head, ``[batch, heads, entries]``."""
        age = self.alive.flip(-1).cumsum(-1).flip(-1)  # 1 for the newest
        window = torch.as_tensor(self.window, device=age.device).reshape(-1, 1, 1)
        return self.alive & (age <= window)

    def remembered(self, name: str, born: float) -> Tensor:
        """Return what is remembered of each entry.

        Args:
            name: of the method's own.
            born: what a new entry begins with.

        Returns:
            ``[batch, heads, entries]``, at least float32; a copy, to be put into ``memory``.
        """
        dtype = torch.promote_types(self.keys.dtype, torch.float32)
        full = torch.full(self.positions.shape, born, dtype=dtype, device=self.keys.device)
        if name in self.memory:
            old = self.memory[name]
            full[..., : old.shape[-1]] = old.nan_to_num(nan=born)
        return full

    @property
    def voters(self) -> Tensor:
        """Which queries are among the newest ``window`` of their input, ``[batch, queries]``.

        At least one votes, padding never does.
        """
        self._require_queries()
        real = self.query_positions >= 0
        age = real.flip(-1).cumsum(-1).flip(-1)  # 1 for the newest
        window = torch.as_tensor(self.window, device=real.device).reshape(-1, 1).clamp(min=1)
        return real & (age <= window)

    def received(self, *, window: bool = False) -> Tensor:
        """Return what each entry gets from queries, summed over them.

        It is averaged over the query heads that share a head, and computed in blocks.

        Args:
            window: from the newest ``window`` queries, which may be of calls before; otherwise
                from all of this call.

        Returns:
            ``[batch, heads, entries]``.
        """
        total = self.remembered("", 0.0)
        for weights in self.in_time(window=window):
            total += weights.mean(2).sum(2)
        return total

    def in_time(self, *, window: bool = False, most: int | None = None) -> Iterator[Tensor]:
        """Yield attention in blocks of queries, in the order of time.

        Args:
            window: of the newest ``window`` queries instead of those of this call.
            most: queries in one block at most.

        Yields:
            ``[batch, heads, query heads of a head, queries, entries]``.
        """
        self._require_queries()
        at, begin, num = self.query_positions, -self.num_new, self.queries.shape[2]
        if window:
            at = at.masked_fill(~self.voters, -1)
            begin = -max(int(torch.as_tensor(self.window).max()), 1)
            if bool((self.query_positions[:, begin:] < 0).any()):
                begin = -num  # padding on the right: the newest of an input are older
        begin = max(num + begin, 0)
        each = self.queries.shape[0] * self.queries.shape[1] * self.keys.shape[2]
        for block in blocks_of(num - begin, each, most):
            yield self._weights(slice(begin + block.start, begin + block.stop), at)

    def _require_queries(self) -> None:
        if not self.queries.shape[2]:
            told = type(self.call.module).__name__ if self.call is not None else "none"
            refuse("module", told, "one whose queries are known: with q_proj and rotary embeddings")

    def _weights(self, block: slice, at: Tensor) -> Tensor:
        if self.call is not None and self.call.biased:
            told = f"{type(self.call.module).__name__} with {self.call.biased}"
            refuse("model", told, "attention that queries and keys decide, for this method")
        return attention(
            self.queries[:, :, block],
            self.keys,
            self.positions,
            at[:, block],
            scaling=self.scaling,
            softcap=self.softcap,
            mass=self.mass,
        )
