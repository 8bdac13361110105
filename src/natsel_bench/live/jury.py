"""Many methods judge one reading of a prompt, so that each reads no more than its last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

import natsel
from natsel.live_populations import Entries, Method
from natsel.live_populations.allowances import allowed_of
from natsel.live_populations.floors import Floor
from natsel_bench.live.ways import Way


class Jury:
    """Scores of all ways, from one reading in which nobody leaves.

    Each way judges what it would judge in a reading of its own: with its window, its memory and
    its chance. Who leaves is decided by the engine afterwards, from these scores.

    Args:
        ways: that judge.

    Attributes:
        method: by which the prompt has to be read, all but its last token first.
    """

    def __init__(self, ways: Sequence[Way]) -> None:
        self._ways = [(way, way.bound) for way in ways]
        self._memory: list[dict[int, dict[str, Tensor]]] = [{} for _ in ways]
        self._chance = [torch.Generator().manual_seed(way.seed) for way in ways]
        self._found: list[dict[int, tuple[Tensor, Tensor | None]]] = [{} for _ in ways]
        window = max(way.window for way in ways)
        self.method = Method(
            "jury",
            self._judge,
            window=window,
            queries=True,
            every_call=True,
            rereads=any(method.rereads for _, method in self._ways),
        )

    def _judge(self, entries: Entries) -> Tensor:
        for number, (way, method) in enumerate(self._ways):
            if entries.num_new > 1 and not method.every_call:
                continue  # it is asked once, at the end
            seen = entries.positions.shape[-1]
            allowed = allowed_of(natsel.Sparsity(way.share), seen)
            first = 0 if method.queries else entries.queries.shape[2] - entries.num_new
            own = replace(
                entries,
                queries=entries.queries[:, :, first:],
                query_positions=entries.query_positions[:, first:],
                window=Floor(way.sinks, way.window).within(allowed, seen).window,
                memory=self._memory[number].setdefault(entries.layer, {}),
                generator=self._chance[number],
            )
            scores = method.score(own)
            gone = method.extinct(own) if method.extinct is not None else None
            self._found[number][entries.layer] = (scores, gone)
        return entries.positions.double()

    def scores(self, number: int) -> dict[int, Tensor]:
        """Return what a way thinks of every entry, ``{layer: [batch, heads, entries]}``."""
        return {layer: scores for layer, (scores, _) in self._found[number].items()}

    def verdict(self, number: int) -> Method:
        """Return the method that says again what a way has judged."""
        found, (way, method) = self._found[number], self._ways[number]

        def again(entries: Entries) -> Tensor:
            scores, gone = found[entries.layer]
            if gone is not None:
                entries.memory["gone"] = gone.to(entries.keys.dtype)
            return scores

        return replace(
            method,
            name=way.method,
            score=again,
            queries=False,
            rereads=False,
            every_call=method.extinct is not None,
            extinct=_told if method.extinct is not None else None,
        )


def _told(entries: Entries) -> Tensor:
    return entries.memory["gone"] > 0
