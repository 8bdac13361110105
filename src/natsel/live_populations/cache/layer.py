"""A layer of a dynamic cache that can lose entries, head by head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from natsel.common.errors import refuse
from natsel.live_populations.merging import merged

NOBODY = -1

INSIDE = (
    "a cache whose heads hold equally many entries, or the `with` in which it was thinned: "
    "here heads, layers or rows hold different entries, which the decoder alone cannot know"
)


class Thinning:
    """What thins caches, from a method's beginning to its ``close()``.

    It is one and the same in every copy of a cache: a prompt that was read once is often copied for
    many questions, and a copy that knew nothing of the end would be misread after it.

    Attributes:
        closed: whether it is over.
    """

    def __init__(self) -> None:
        self.closed = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Thinning:
        return self


class LiveLayer(DynamicLayer):
    """Holds the entries of those who live, and shows them to attention as one rectangle.

    Where nobody has left, it is a dynamic layer and nothing else. Afterwards the living of a head
    stand first, in the order of the input, and what follows up to the longest head is empty:
    position -1, keys and values of 0, hidden from attention by -inf. Between calls there are no
    empty places: keys and values lie packed, one living entry behind the other.

    Attributes:
        seen: tokens of the input so far, with padding; positions go on from here.
        positions: of the tokens in the input, ``[batch, heads, entries]``; None as long as every
            token of the input is held.
        mass: what merging has given, ``[batch, heads, entries]``; None for 1.
        memory: what a method remembers of each entry.
        queries: the newest ones, ``[batch, query heads, queries, width]``, or None.
        query_positions: theirs, ``[batch, queries]``.
        padding: how many of the tokens are padding, ``[batch]``; None for none.
        is_thinned: whether the places are no longer those of the whole input; one head may hold
            all of it while others do not.
        ragged: whether some places are empty.
        judged: how many tokens were looked at for padding.
        alike: whether all layers hold equally many.
        thinning: what thins it; when that is over, it is an ordinary layer, if it can be.
        everybody: keys and values of the whole input, for a proof: nobody leaves then, and who
            would have left is hidden from attention.
    """

    is_croppable = False

    def __init__(self, *, for_proof: bool = False) -> None:
        self._packed: tuple[Tensor, Tensor] | None = None
        super().__init__()  # type: ignore[no-untyped-call]
        self.for_proof = for_proof
        self.thinning: Thinning | None = None
        self.alike = True
        self._forget()

    def _forget(self) -> None:
        self._packed = None
        self.seen = 0
        self.positions: Tensor | None = None
        self.mass: Tensor | None = None
        self.memory: dict[str, Tensor] = {}
        self.queries: Tensor | None = None
        self.query_positions: Tensor | None = None
        self.padding: Tensor | None = None
        self.is_thinned = False
        self.ragged = False
        self.judged = 0
        self.everybody: tuple[Tensor, Tensor] | None = None

    @property
    def closed(self) -> bool:
        """Whether what thinned it is over."""
        return self.thinning is not None and self.thinning.closed

    @property
    def keys(self) -> Tensor:
        """Keys, ``[batch, heads, entries, width]``, as soon as there is an entry."""
        self._unpack()
        return self._keys

    @keys.setter
    def keys(self, keys: Tensor) -> None:
        self._keys = keys

    @property
    def values(self) -> Tensor:
        """Values, ``[batch, heads, entries, width]``, as soon as there is an entry."""
        self._unpack()
        return self._values

    @values.setter
    def values(self, values: Tensor) -> None:
        self._values = values

    def pack(self) -> None:
        """Let go of empty places, until somebody looks at keys or values."""
        if self.ragged and self.is_thinned and self._packed is None and not self.for_proof:
            where = self._living()
            keys, values = (
                x.flatten(0, 2).index_select(0, where) for x in (self._keys, self._values)
            )
            self._packed = (keys, values)
            self._keys, self._values = (x[..., :0].clone() for x in (self._keys, self._values))

    def _unpack(self) -> None:
        if self._packed is None:
            return
        where, shape = self._living(), self.places().shape
        self._keys, self._values = (
            x.new_zeros(shape.numel(), x.shape[-1]).index_copy_(0, where, x).view(*shape, -1)
            for x in self._packed
        )
        self._packed = None

    def _living(self) -> Tensor:
        """Return the places that somebody lives at, in the order in which they lie."""
        return (self.places() >= 0).flatten().nonzero()[:, 0]

    @classmethod
    def adopting(cls, layer: DynamicLayer, *, for_proof: bool = False) -> LiveLayer:
        """Return a live layer that holds what a dynamic one does."""
        live = cls(for_proof=for_proof)
        if layer.is_initialized and layer.get_seq_length():
            assert layer.keys is not None
            assert layer.values is not None
            live.update(layer.keys, layer.values)
        return live

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Take in new entries, and return all that attention reads."""
        if self.closed and not self.is_plain:
            refuse("past_key_values", f"{type(self).__name__} after close()", INSIDE)
        num = key_states.shape[-2]
        keys, values = super().update(key_states, value_states)
        self.seen += num
        if self.positions is not None:
            born = torch.arange(self.seen - num, self.seen, device=keys.device, dtype=torch.int32)
            new = born.expand(*keys.shape[:2], num)
            self.positions = torch.cat([self.positions, new], -1)
            if self.mass is not None:
                ones = self.mass.new_ones(new.shape)
                self.mass = torch.cat([self.mass, ones], -1)
        if not self.for_proof:
            return keys, values
        whole = self.everybody
        self.everybody = (
            (torch.cat([whole[0], key_states], -2), torch.cat([whole[1], value_states], -2))
            if whole is not None
            else (keys, values)
        )
        return self.everybody

    def places(self) -> Tensor:
        """Return the positions, also where every token is held."""
        if self.positions is None:
            at = torch.arange(self.seen, device=self.keys.device, dtype=torch.int32)
            return at.expand(*self.keys.shape[:2], -1)
        return self.positions

    def num_real(self) -> list[int]:
        """Return how many tokens of each input are no padding."""
        rows = self.keys.shape[0]
        if self.padding is None:
            return [self.seen] * rows
        return [self.seen - int(n) for n in self.padding.tolist()]

    def hide(self, padded: Tensor) -> None:
        """Take new entries for padding: nobody lives there.

        Args:
            padded: ``[batch, new]``.
        """
        num = padded.shape[-1]
        at = self.places().clone()
        at[..., -num:] = at[..., -num:].masked_fill(padded[:, None], NOBODY)
        self.positions = at
        self.ragged = True
        count = padded.sum(-1)
        self.padding = count if self.padding is None else self.padding + count

    def remember(self, queries: Tensor, positions: Tensor, most: int) -> None:
        """Keep the newest queries for the calls to come."""
        # A copy: what is a part of a tensor keeps all of it in memory.
        self.queries = queries[:, :, -most:].detach().clone()
        self.query_positions = positions[:, -most:]

    def keep(self, keep: Tensor, *, merge: bool) -> None:
        """Let go of everybody else.

        Args:
            keep: ``[batch, heads, entries]``.
            merge: whether those who leave give their mass to who is nearest.
        """
        at = self.places()
        keys, values = self.keys, self.values
        mass = self.mass
        if merge:
            ones = torch.ones(at.shape, dtype=torch.float32, device=keys.device)
            before = ones if mass is None else mass
            keys, values, mass = merged(keys, values, before, keep, (at >= 0) & ~keep)
        self.is_thinned = True
        counts = keep.sum(-1)
        longest = int(counts.max())
        index = (~keep).to(torch.uint8).argsort(dim=-1, stable=True)[..., :longest]
        living = keep.gather(-1, index)
        self.ragged = not bool(living.all())

        def grown(x: Tensor) -> Tensor:  # what nothing was remembered of yet is NaN
            return nn.functional.pad(x, (0, at.shape[-1] - x.shape[-1]), value=torch.nan)

        def gathered(x: Tensor, empty: float) -> Tensor:
            wide = x.dim() == index.dim() + 1
            where = index[..., None].expand(*index.shape, x.shape[-1]) if wide else index
            kept = x.gather(2, where)
            if not self.ragged:
                return kept
            return kept.masked_fill(~(living[..., None] if wide else living), empty)

        self.keys, self.values = gathered(keys, 0.0), gathered(values, 0.0)
        self.positions = gathered(at, NOBODY)
        self.mass = None if mass is None else gathered(mass, 1.0)
        self.memory = {name: gathered(grown(x), torch.nan) for name, x in self.memory.items()}

    def tidy(self) -> None:
        """Let the living stand first again where new ones came behind empty places."""
        if self.ragged and self.is_thinned:
            self.keep(self.places() >= 0, merge=False)

    @property
    def is_plain(self) -> bool:
        """Whether a decoder can go on by itself: every row and head holds a full rectangle."""
        return self.is_rectangle and self.alike and not self.for_proof

    @property
    def is_rectangle(self) -> bool:
        """Whether every place is lived at by one who counts once: nothing is to be masked."""
        return not self.ragged and self.mass is None

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the size of a mask over the whole input, of which each head takes its places."""
        if self.closed and self.is_thinned and self.is_plain:  # else another method goes on
            held = self.keys.shape[-2]
            return held + query_length, self.seen - held
        return self.seen + query_length, 0

    def get_seq_length(self) -> int:
        """Return how many tokens the layer has seen, not how many it holds."""
        return self.seen

    def reset(self) -> None:
        """Begin with nothing."""
        super().reset()
        self._forget()

    def crop(self, tokens_to_remove: int) -> None:
        """Take nothing back: who has left cannot return."""
        if tokens_to_remove == 0:
            return
        refuse("tokens_to_remove", tokens_to_remove, "0: entries that were evicted do not return")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the rows for a beam search."""
        self._rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows only."""
        self._rows(lambda x: x[indices])

    def _rows(self, of: Any) -> None:
        if not self.seen:
            return
        for name in ("keys", "values", "positions", "mass", "queries", "query_positions"):
            if getattr(self, name) is not None:
                setattr(self, name, of(getattr(self, name)))
        self.padding = None if self.padding is None else of(self.padding)
        self.memory = {name: of(x) for name, x in self.memory.items()}
        if self.everybody is not None:
            self.everybody = (of(self.everybody[0]), of(self.everybody[1]))

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values that are held."""
        return sum(x.nbytes for x in self._packed or (self._keys, self._values))

    @property
    def num_bytes_each(self) -> int:
        """Bytes of the key and the value of one entry of one head."""
        held = self._packed or (self._keys, self._values)
        return sum(x.shape[-1] * x.element_size() for x in held)

    @property
    def num_bytes_beside(self) -> int:
        """Bytes of what is held beside them: positions, masses, memory, queries."""
        own = (self.positions, self.mass, self.queries, self.query_positions, self.padding)
        return sum(x.nbytes for x in (*own, *self.memory.values()) if x is not None)
