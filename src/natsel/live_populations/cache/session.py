"""Rounds of selection in a cache: after each call, who has to leave leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from natsel.common.errors import NonFiniteError, refuse
from natsel.live_populations.allowances import Allowance, Bytes, allowed_of
from natsel.live_populations.cache.called import Asked, Record, Rereading
from natsel.live_populations.cache.layer import NOBODY, LiveLayer, Thinning
from natsel.live_populations.choosing import (
    Normalization,
    apportioned,
    floored,
    places,
    survivors_each,
    survivors_together,
)
from natsel.live_populations.entries import Entries
from natsel.live_populations.floors import Fitted, Floor
from natsel.live_populations.registry import Method
from natsel.selection import Sparsity

REREAD = "reread"
"""What is remembered of a second reading; no method's own name."""


@dataclass
class _Waiting:
    layer: LiveLayer
    scores: Tensor
    alive: Tensor
    protected: Tensor


@dataclass
class Session:
    """A method at work on a decoder.

    Attributes:
        method: who is fit.
        budget: how much may stay.
        floor: who stays in any case.
        scope: who shares a budget: "head" (each its own), "layer" (the heads of a layer) or
            "model" (all heads).
        normalize: how scores of different heads become comparable.
        heads: what each head needs, by which all share; None where scores decide.
        merge: whether who leaves gives its mass to who is nearest.
        decoding: whether entries leave while one token after the other comes, too.
        generator: the only source of chance.
        layers: the indices of the layers that lose entries.
        for_proof: whether everybody is held, and who would have left hidden from attention.
        records: what the layers hold, after the last call.
        is_idle: whether nobody ever leaves: then there is nothing to ask, and the cache stays a
            dynamic one.
        is_paused: whether time stands still: entries are born, nobody is asked and nobody leaves.
        rereading: the second reading that a method may ask for.
    """

    method: Method
    budget: Allowance
    floor: Floor
    scope: str
    normalize: Normalization
    merge: bool
    decoding: bool
    generator: torch.Generator
    layers: tuple[int, ...]
    heads: Mapping[int, Tensor] | None = None
    for_proof: bool = False
    records: dict[int, Record] = field(default_factory=dict)
    is_idle: bool = field(init=False)
    is_paused: bool = False
    rereading: Rereading = field(default_factory=Rereading)
    _thinning: Thinning = field(default_factory=Thinning)
    _waiting: dict[int, _Waiting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nobody = isinstance(self.budget, Sparsity) and self.budget.value == 0
        self.is_idle = nobody and self.method.extinct is None and not self.for_proof

    def tell(self, cache: Cache, padded: Tensor | None) -> None:
        """Write down what a whole cache holds.

        Args:
            cache: in which nobody ever left.
            padded: which tokens of the input are padding, ``[batch, tokens]``, or None.
        """
        padding = None if padded is None else padded.sum(-1)
        places = None
        for index in self.layers:
            layer: Any = cache.layers[index]
            keys, values = layer.keys, layer.values
            num_bytes = keys.nbytes + values.nbytes
            rows, heads, seen = keys.shape[:3]
            if padded is not None and places is None:
                at = torch.arange(seen, dtype=torch.int32, device=padded.device)
                places = at.masked_fill(padded, NOBODY)[:, None].expand(rows, heads, seen)
            self.records[index] = Record(
                rows, heads, seen, padding, places, num_bytes, 0, num_bytes
            )

    def take(self, layer: LiveLayer) -> None:
        """Take a layer over, also one that another method has thinned before."""
        if layer.thinning is self._thinning:
            return
        layer.thinning, layer.memory = self._thinning, {}
        layer.queries = layer.query_positions = None
        layer.alike = self.scope == "head" and self.method.extinct is None

    def close(self) -> None:
        """Leave the layers to themselves."""
        self._thinning.closed = True

    @torch.no_grad()
    def after(self, index: int, layer: LiveLayer, asked: Asked) -> None:
        """Hold the round of selection that follows a call of a layer."""
        if self.rereading.is_running:
            self._read_again(index, layer, asked)
            return
        if index == self.layers[0]:
            self._waiting.clear()
        asked = self._with_earlier(layer, asked)
        if self.is_paused:
            self.records[index] = _settled(layer)
            return
        growing = asked.call.hidden_states.shape[1] == 1
        if self.method.rereads and not growing:
            self.rereading.waiting[index] = (layer, asked.without_queries())
        elif self.decoding or not growing:
            self._round(index, layer, asked)
        elif self.method.every_call:
            self._scored(index, layer, asked, self._windows(self._fits(layer, strict=False)))
        self.records[index] = _settled(layer)

    @torch.no_grad()
    def read_again(self) -> None:
        """Hold the rounds that waited for a second reading."""
        while self.rereading.waiting:
            index = next(iter(self.rereading.waiting))
            layer, asked = self.rereading.waiting.pop(index)
            self._round(index, layer, asked)
            self.records[index] = _settled(layer)

    def _read_again(self, index: int, layer: LiveLayer, asked: Asked) -> None:
        """Write down the most that each entry gets from one query of a second reading."""
        entries = self._entries(index, layer, asked, torch.zeros(1))
        most = entries.remembered(REREAD, 0.0)
        for weights in entries.in_time():
            most = torch.maximum(most, weights.amax((2, 3)))
        layer.memory[REREAD] = most[..., : most.shape[-1] - entries.num_new]

    def _with_earlier(self, layer: LiveLayer, asked: Asked) -> Asked:
        """Return the queries with those of calls before, where the method asks for a window."""
        if not self.method.queries:
            return asked
        queries, positions = asked.queries, asked.positions()
        most = max(self.floor.window, 1)
        if layer.queries is not None and layer.query_positions is not None:
            queries = torch.cat([layer.queries, queries], 2)
            positions = torch.cat([layer.query_positions, positions], 1)
        layer.remember(queries, positions, most)
        return Asked(queries, lambda: positions, asked.scaling, asked.softcap, asked.call)

    def _round(self, index: int, layer: LiveLayer, asked: Asked) -> None:
        allowed = self._allowed(layer)
        must = self._is_over(layer, allowed)
        if not must and not self.method.every_call and self.scope != "model":
            return
        layer.tidy()
        fitted = self._fits(layer, strict=must)
        scores = self._scored(index, layer, asked, self._windows(fitted))
        alive = layer.places() >= 0
        sinks, window, least = (self._rows(layer, [f[i] for f in fitted]) for i in range(3))
        protected = floored(alive, sinks, window)
        alive = self._living(layer, scores, alive, protected)
        if self.heads is not None:
            scores = self._by_need(index, scores, alive, protected)
        if self.scope == "model":
            self._waiting[index] = _Waiting(layer, scores, alive, protected)
            if index == self.layers[-1]:
                self._all_layers(allowed, least)
            return
        counts = self._rows(layer, allowed)
        if self.scope == "head":
            keep = survivors_each(scores, alive, protected, counts)
        else:
            keep = survivors_together(
                [scores], [alive], [protected], counts, least, self.normalize
            )[0]
        self._let_go(layer, keep)

    def _all_layers(self, allowed: list[int], least: Tensor) -> None:
        waiting = [self._waiting.pop(index) for index in self.layers if index in self._waiting]
        keep = survivors_together(
            [w.scores for w in waiting],
            [w.alive for w in waiting],
            [w.protected for w in waiting],
            self._rows(waiting[0].layer, allowed),
            least,
            None if self.heads is not None else self.normalize,
        )
        for index, w, kept in zip(self.layers, waiting, keep, strict=True):
            self._let_go(w.layer, kept)
            self.records[index] = _settled(w.layer)

    def _by_need(self, index: int, scores: Tensor, alive: Tensor, protected: Tensor) -> Tensor:
        assert self.heads is not None
        needs = self.heads[index].to(scores.device)
        if needs.shape[0] != scores.shape[1]:
            told = f"{needs.shape[0]} numbers at layer {index}"
            refuse("heads", told, f"{scores.shape[1]}, one for each key/value head")
        return apportioned(scores, alive, protected, needs)

    def _let_go(self, layer: LiveLayer, keep: Tensor) -> None:
        here = layer.places() >= 0
        if bool((keep != here).any()):
            layer.keep(keep, merge=self.merge)

    def _allowed(self, layer: LiveLayer) -> list[int]:
        each = 0
        if isinstance(self.budget, Bytes):
            rows, heads = layer.keys.shape[:2]
            each = len(self.layers) * rows * heads * layer.num_bytes_each
        return [allowed_of(self.budget, seen, each) for seen in layer.num_real()]

    def _is_over(self, layer: LiveLayer, allowed: list[int]) -> bool:
        """Tell whether somebody has to leave."""
        heads, held = layer.keys.shape[1], layer.keys.shape[2]
        if not layer.ragged:
            return held > min(allowed)
        counts = (layer.places() >= 0).sum(-1)
        most = self._rows(layer, allowed)[:, None]
        if self.scope == "head":
            return bool((counts > most).any())
        return bool((counts.sum(-1, keepdim=True) > heads * most).any())

    def _fits(self, layer: LiveLayer, *, strict: bool) -> list[Fitted]:
        floor = self.floor if strict else Floor(self.floor.sinks, self.floor.window)
        found = []
        for allowed, seen in zip(self._allowed(layer), layer.num_real(), strict=True):
            found.append(floor.within(allowed, seen) if seen > 0 else Fitted(0, 0, 0))
        return found

    def _windows(self, fitted: list[Fitted]) -> Tensor:
        return torch.tensor([f.window for f in fitted])

    def _rows(self, layer: LiveLayer, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=layer.keys.device)

    def _entries(self, index: int, layer: LiveLayer, asked: Asked, window: Tensor) -> Entries:
        return Entries(
            keys=layer.keys,
            values=layer.values,
            positions=layer.places(),
            queries=asked.queries,
            query_positions=asked.positions(),
            num_new=asked.call.hidden_states.shape[1],
            scaling=asked.scaling,
            softcap=asked.softcap,
            mass=layer.mass,
            window=window.to(layer.keys.device),
            layer=index,
            memory=layer.memory,
            generator=self.generator,
            call=asked.call,
        )

    def _scored(self, index: int, layer: LiveLayer, asked: Asked, window: Tensor) -> Tensor:
        entries = self._entries(index, layer, asked, window)
        if self.method.rereads:
            entries = replace(entries, reread=entries.remembered(REREAD, 0.0))
        scores = self.method.score(entries)
        shape = tuple(entries.positions.shape)
        if not isinstance(scores, Tensor) or tuple(scores.shape) != shape:
            told = tuple(scores.shape) if isinstance(scores, Tensor) else scores
            refuse("method", self.method.name, f"scores of shape {shape}, this gave {told}")
        if not bool(scores.masked_fill(~entries.alive, 0.0).isfinite().all()):
            raise NonFiniteError(
                f"method {self.method.name!r} gave NaN or infinity at layer {index}"
            )
        return scores

    def _living(self, layer: LiveLayer, scores: Tensor, alive: Tensor, protected: Tensor) -> Tensor:
        """Return who is alive after extinction; the floor and the best one of a head stay."""
        if self.method.extinct is None:
            return alive
        entries = Entries(
            layer.keys,
            layer.values,
            layer.places(),
            layer.keys,
            layer.places()[:, 0],
            0,
            1.0,
            memory=layer.memory,
        )
        best = places(scores, alive, protected) == 0
        return alive & (~self.method.extinct(entries) | protected | best)


def _settled(layer: LiveLayer) -> Record:
    """Let a layer hold who is held and nobody else, and return what that is."""
    layer.pack()
    rows, heads = layer.places().shape[:2]
    return Record(
        rows,
        heads,
        layer.seen,
        layer.padding,
        layer.positions,
        layer.num_bytes,
        layer.num_bytes_beside,
        rows * heads * layer.seen * layer.num_bytes_each,
    )
