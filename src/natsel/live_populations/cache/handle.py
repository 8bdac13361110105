"""What a user holds while entries compete: who is held, what it takes, and the end of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from natsel.common.errors import choose, refuse
from natsel.live_populations.attached import Attached
from natsel.live_populations.cache.attending import recover
from natsel.live_populations.cache.called import Record
from natsel.live_populations.cache.session import Session


class LiveCache(Attached):
    """Live populations in the key/value cache of a decoder, from here to ``close()``.

    Everything it tells is of the last call of the decoder.

    Attributes:
        refused: the layers that stay whole, and why.
    """

    def __init__(
        self,
        session: Session,
        modules: Mapping[int, nn.Module],
        handles: list[RemovableHandle],
        refused: Mapping[int, str],
    ) -> None:
        super().__init__(session.method.name, tuple(modules.values()), handles)
        self._session = session
        self.refused = MappingProxyType(dict(refused))

    def __repr__(self) -> str:
        if not self._session.records:
            return f"LiveCache({self._session.method.name}: no input yet)"
        share = self.num_bytes / self.num_bytes_whole
        return (
            f"LiveCache({self._session.method.name}: {self.num_held:,} of {self.num_seen:,} "
            f"entries held, {self.num_bytes:,} bytes, {share:.1%} of the whole cache)"
        )

    def close(self) -> None:
        """Leave the decoder as it was; a second time does nothing."""
        super().close()
        recover(self._session)
        self._session.close()

    @contextmanager
    def paused(self) -> Iterator[LiveCache]:
        """Let time stand still: what is read meanwhile is held, and nobody is asked or leaves.

        So a prompt is thinned at the end of its call, and a question and its answer are read with
        what was held then. The budget holds again from the first call afterwards; what attention
        was given meanwhile counts for nobody, but where a method keeps the newest queries.

        Example:
            >>> import torch, transformers, natsel
            >>> sizes = {"vocab_size": 32, "n_embd": 8, "n_layer": 1, "n_head": 1}
            >>> config = transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)
            >>> model = transformers.GPT2LMHeadModel(config).eval()
            >>> with natsel.live(model, "newest", natsel.Sparsity(0.5)) as handle:
            ...     cache = model(torch.arange(20)[None]).past_key_values
            ...     with handle.paused():
            ...         _ = model(torch.arange(4)[None], past_key_values=cache)
            >>> handle.held(0)
            tensor([[14]])
        """
        before = self._session.is_paused
        self._session.is_paused = True
        try:
            yield self
        finally:
            self._session.is_paused = before

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose entries compete."""
        return self._session.layers

    def held(self, layer: int) -> Tensor:
        """Return how many entries each head holds, ``[batch, heads]``, without padding."""
        return self.positions(layer).ge(0).sum(-1)

    def positions(self, layer: int) -> Tensor:
        """Return where in the input those who are held stand.

        Args:
            layer: one of ``layers``.

        Returns:
            ``[batch, heads, places]``, -1 for a place that nobody lives at.

        Raises:
            ValueError: if there is no such layer, or no input was seen yet.
        """
        record = self._record(layer)
        if record.positions is None:
            at = torch.arange(record.seen, dtype=torch.int32)
            return at.expand(record.rows, record.heads, -1)
        return record.positions

    def evicted(self, layer: int) -> Tensor:
        """Return which tokens of the input a layer no longer holds, padding included.

        Args:
            layer: one of ``layers``.

        Returns:
            ``[batch, heads, tokens]``.

        Raises:
            ValueError: if there is no such layer, or no input was seen yet.
        """
        record, at = self._record(layer), self.positions(layer)
        index = at.long().masked_fill(at < 0, record.seen)
        shape = (record.rows, record.heads, record.seen + 1)
        gone = torch.ones(shape, dtype=torch.bool, device=at.device)
        return gone.scatter_(-1, index, torch.zeros_like(index, dtype=torch.bool))[..., :-1]

    @property
    def num_held(self) -> int:
        """Entries held, over all layers, heads and inputs."""
        return sum(int(self.held(layer).sum()) for layer in self._session.records)

    @property
    def num_seen(self) -> int:
        """Entries that the whole cache would hold, without padding."""
        total = 0
        for record in self._session.records.values():
            padding = 0 if record.padding is None else int(record.padding.sum())
            total += record.heads * (record.rows * record.seen - padding)
        return total

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values that are held, measured from the tensors."""
        return sum(record.num_bytes for record in self._session.records.values())

    @property
    def num_bytes_beside(self) -> int:
        """Bytes of what is held beside them: positions, masses, what a method remembers."""
        return sum(record.num_bytes_beside for record in self._session.records.values())

    @property
    def num_bytes_whole(self) -> int:
        """Bytes that keys and values of every token of these layers would take."""
        return sum(record.num_bytes_whole for record in self._session.records.values())

    def _record(self, layer: int) -> Record:
        if layer in self.refused:
            refuse("layer", layer, f"a layer that loses entries; this one is {self.refused[layer]}")
        choose("layer", str(layer), map(str, self.layers))
        if layer not in self._session.records:
            raise ValueError("nothing is held: expected a call of the decoder before")
        return self._session.records[layer]


def refuse_twice(modules: Mapping[int, nn.Module], told: str) -> None:
    """Refuse a decoder in whose cache entries compete already.

    Raises:
        ValueError: if one is at work.
    """
    for module in modules.values():
        if (name := LiveCache.method_in(module)) is not None:
            allowed = f"a decoder whose cache no other method thins: close() that of {name!r}"
            refuse("model", told, allowed)
