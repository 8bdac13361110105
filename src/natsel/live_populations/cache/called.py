"""What a session knows of calls: what was asked in one, what it left, what is read again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from natsel.live_populations.cache.layer import LiveLayer
from natsel.live_populations.entries import Call


@dataclass(frozen=True)
class Asked:
    """The queries of one call of an attention module.

    Attributes:
        queries: ``[batch, query heads, queries, width]``.
        positions: gives theirs, ``[batch, queries]``, -1 for padding.
        scaling: what products with keys are multiplied by.
        softcap: what logits are bounded to, or None.
        call: of the module.
    """

    queries: Tensor
    positions: Callable[[], Tensor]
    scaling: float
    softcap: float | None
    call: Call

    def without_queries(self) -> Asked:
        """Return the same call without what is as large as the call is long."""
        rows, num_new = self.call.hidden_states.shape[:2]
        hidden = self.call.hidden_states.new_empty(rows, num_new, 0)
        none = torch.empty(rows, 0, dtype=torch.int32, device=hidden.device)
        empty = self.queries[:, :, :0].clone()
        call = Call(self.call.module, hidden, biased=self.call.biased)
        return Asked(empty, lambda: none, self.scaling, self.softcap, call)


@dataclass(frozen=True)
class Record:
    """What a layer held after the last call.

    Attributes:
        rows: inputs in the batch.
        heads: key/value heads.
        seen: tokens of the input, with padding.
        padding: how many of them are padding, ``[batch]``, or None.
        positions: of who is held, ``[batch, heads, places]``, -1 for nobody; None for all.
        num_bytes: of keys and values, measured.
        num_bytes_beside: of what is held besides.
        num_bytes_whole: what keys and values of every token would take.
    """

    rows: int
    heads: int
    seen: int
    padding: Tensor | None
    positions: Tensor | None
    num_bytes: int
    num_bytes_beside: int
    num_bytes_whole: int


@dataclass
class Rereading:
    """A second reading of what a call brought.

    Attributes:
        decoder: that reads; None where the method asks for none.
        cache: that is read into.
        is_running: whether it is going on.
        waiting: by layer, the rounds that are held when it is over.
    """

    decoder: nn.Module | None = None
    cache: Cache | None = None
    is_running: bool = False
    waiting: dict[int, tuple[LiveLayer, Asked]] = field(default_factory=dict)
