"""(1 + lambda) over whole networks: children by swaps, a race between them, the best one stays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from natsel.levels.drawing import Drawing
from natsel.levels.judge import Judge
from natsel.levels.moves import Move, swap
from natsel.levels.space import Individual, Space

RUNGS = (0.25, 0.5, 1.0)
"""Shares of the windows after which a race looks who goes on."""
GO_ON = (0.5, 0.25)
"""Which share of all children goes on to the next rung, at least one."""
MOST_SWAPS = 3
PATIENCE = 8
"""How many swaps are drawn for each child that is wanted, at most."""


@dataclass(frozen=True)
class Generation:
    """Where a search stands.

    Attributes:
        number: of the generation; 0 for what it started from.
        evaluations: children that were judged so far.
        tokens: places that were run so far.
        best: fitness of the best individual, lower is better.
        vector: its levels: counts, and for branches those that are out.
    """

    number: int
    evaluations: int
    tokens: int
    best: float
    vector: Sequence[Any]


@dataclass
class Search:
    """The state of a search.

    Attributes:
        space: that is searched.
        judge: of individuals.
        drawing: which site gets and which gives.
        generator: where all randomness comes from.
        best: the incumbent.
        value: its fitness on all windows.
        evaluations: children so far.
        history: of the generations so far.
    """

    space: Space
    judge: Judge
    drawing: Drawing
    generator: torch.Generator
    best: Individual = ()
    value: float = math.inf
    evaluations: int = 0
    history: list[Generation] = field(default_factory=list)

    def start(self, seeds: Sequence[Individual]) -> None:
        """Judge what a search starts from on all windows; the best of it is the incumbent."""
        values = [self.judge.value(self.space.survivors(seed)) for seed in seeds]
        place = min(range(len(seeds)), key=lambda i: (math.isnan(values[i]), values[i]))
        self.best, self.value = seeds[place], values[place]
        self._note()

    def generation(self, size: int) -> None:
        """Let children of the incumbent race, and keep the best of all.

        Args:
            size: how many children.
        """
        moves = self._children(size)
        values = race(self.judge, [self.space.survivors(m.child) for m in moves], self._total())
        self.evaluations += len(moves)
        self.drawing.learn(moves, values, self.generator)
        for move, value in zip(moves, values, strict=True):
            if value < self.value:
                self.best, self.value = move.child, value
        self._note()

    def _children(self, size: int) -> list[Move]:
        """Return children that are not known to be worse; fewer where there are no more."""
        found: dict[Individual, Move] = {}
        bound = self._total()
        for _ in range(PATIENCE * size):
            if len(found) == size:
                break
            draws = [
                int(torch.randint(1, MOST_SWAPS + 1, (), generator=self.generator))
                for _ in range(2)
            ]
            move = swap(
                self.space,
                self.best,
                getting=self.drawing.getting,
                giving=self.drawing.giving,
                generator=self.generator,
                swaps=min(draws),
            )
            if move.child not in found and not self.judge.beaten(
                self.space.survivors(move.child), bound
            ):
                found[move.child] = move
        return list(found.values())

    def _total(self) -> float:
        return float(self.judge.totals(self.space.survivors(self.best)).sum())

    def _note(self) -> None:
        vector = self.space.plain(self.best)
        number = len(self.history)
        self.history.append(
            Generation(number, self.evaluations, self.judge.num_tokens, self.value, vector)
        )

    def state(self) -> dict[str, Any]:
        """Return all that a search goes on from, as JSON holds it."""
        return {
            "best": self.space.plain(self.best),
            "value": self.value,
            "evaluations": self.evaluations,
            "history": [asdict(g) for g in self.history],
            "random": bytes(self.generator.get_state().tolist()).hex(),
            "drawing": self.drawing.state(),
            "judge": self.judge.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.best = self.space.individual(state["best"])
        self.value = float(state["value"])
        self.evaluations = int(state["evaluations"])
        self.history = [Generation(**g) for g in state["history"]]
        random = torch.tensor(list(bytes.fromhex(state["random"])), dtype=torch.uint8)
        self.generator.set_state(random)
        self.drawing.load(state["drawing"])
        self.judge.load(state["judge"])


def race(
    judge: Judge,
    candidates: Sequence[Mapping[str, Tensor]],
    bound: float,
    *,
    rungs: Sequence[float] = RUNGS,
    go_on: Sequence[float] = GO_ON,
) -> list[float]:
    """Judge candidates on growing data; who cannot win any more stops.

    What a window comes to is never negative, so that a candidate whose sum over the windows seen
    exceeds that of the incumbent over all of them is worse, whatever comes: it stops. After each
    rung but the last only a share of the others goes on, the best so far.

    Args:
        judge: of candidates.
        candidates: selections.
        bound: the incumbent's sum over all windows.
        rungs: shares of the windows, rising, the last one 1.
        go_on: shares of the candidates that go on after each rung but the last.

    Returns:
        The mean over all windows of those that saw them all; infinity of the others, which are not
        known to be better.
    """
    totals = [math.inf] * len(candidates)
    seen = [math.inf] * len(candidates)
    running = list(range(len(candidates)))
    for number, rung in enumerate(rungs):
        stop = min(len(judge), max(1, math.ceil(rung * len(judge))))
        left = []
        for i in running:
            total = 0.0
            for upto in range(1, stop + 1):  # window by window, so that none is run in vain
                total = float(judge.totals(candidates[i], upto).sum())
                if not total < bound:
                    break
            seen[i] = total / float(judge.places[:upto].sum())
            if total < bound:
                left.append(i)
                if stop == len(judge):
                    totals[i] = total
        running = sorted(left, key=lambda i: seen[i])
        if number < len(go_on):
            running = running[: max(1, math.ceil(go_on[number] * len(candidates)))]
    whole = float(judge.places.sum())
    return [total / whole for total in totals]
