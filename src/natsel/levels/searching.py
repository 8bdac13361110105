"""(1 + lambda) over whole networks: children by swaps, a race between them, the best one stays.

Each generation races on windows of its own, in turn, as far as there are more than one generation
reads: a search that sees the same few again and again learns those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from natsel.common.progress import Progress
from natsel.levels.drawing import Drawing
from natsel.levels.greedy import taken_out
from natsel.levels.judge import Judge, check_finite
from natsel.levels.moves import Move, swap
from natsel.levels.racing import race
from natsel.levels.space import Individual, Space

MOST_SWAPS = 3
PATIENCE = 8
"""How many swaps are drawn for each child that is wanted, at most."""
CHALLENGERS = 2
"""Children of a generation that may try the incumbent on the windows it stood on before."""
STOOD = 3
"""On how many generations' windows they have to, at most."""
GREEDY = 0.5
"""Share of the evaluations that may go into the plan of taking out one after the other."""


@dataclass(frozen=True)
class Generation:
    """Where a search stands.

    Attributes:
        number: of the generation; 0 for what it started from.
        evaluations: children that were judged so far; of what greedy plans ran, so many windows
            as a generation has count as one.
        tokens: places that were judged so far.
        best: fitness of the best individual on the windows that it was judged on, lower is better.
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
        batch: windows that one generation races on.
        best: the incumbent.
        value: its fitness on the windows that it was judged on.
        evaluations: children so far.
        history: of the generations so far.
    """

    space: Space
    judge: Judge
    drawing: Drawing
    generator: torch.Generator
    batch: int = 8
    best: Individual = ()
    value: float = math.inf
    evaluations: int = 0
    history: list[Generation] = field(default_factory=list)
    _num_drawn: int = 0

    def greedy(self, evaluations: int, keep: Callable[[], None] = lambda: None) -> list[Individual]:
        """Return the plan of taking one thing after the other, whichever costs least.

        Args:
            evaluations: of the whole search; a share of them may go into it.
            keep: is called after each step.
        """
        room = GREEDY * evaluations * self.batch
        found = taken_out(self.space, self.judge, self._windows, room=room, keep=keep)
        self.evaluations = self.spent
        return [] if found is None else [found]

    @property
    def spent(self) -> int:
        """How many evaluations as many windows are as were run so far."""
        return math.ceil(self.judge.num_windows / self.batch)

    def start(self, seeds: Sequence[Individual]) -> None:
        """Judge what a search starts from on the same windows; the best is the incumbent."""
        windows = self._windows()
        values = [self.judge.value(self.space.survivors(seed), windows) for seed in seeds]
        place = min(range(len(seeds)), key=lambda i: (math.isnan(values[i]), values[i]))
        self.best, self.value = seeds[place], values[place]
        self._note()

    def generation(self, size: int) -> None:
        """Let children of the incumbent race on fresh windows, and keep the best of all.

        A child that wins has to win on windows that the incumbent stood on before, too.

        Args:
            size: how many children.
        """
        windows = self._windows()
        incumbent = self.space.survivors(self.best)
        self.judge.stand_on(incumbent)
        own = self.judge.totals(incumbent, windows)
        moves = self._children(size)
        plans = [self.space.survivors(m.child) for m in moves]
        values = race(self.judge, plans, own, windows)
        self.evaluations += len(moves)
        self.drawing.learn(moves, values, self.generator)
        stood = self.judge.seen(incumbent)[-STOOD * self.batch :]
        more = [*(n for n in stood if n not in windows), *windows]
        bound = self.judge.totals(incumbent, more)
        for place in sorted(range(len(moves)), key=lambda i: values[i])[:CHALLENGERS]:
            if not values[place] < math.inf:
                break
            (value,) = race(self.judge, [plans[place]], bound, more)
            if value < math.inf:
                self.best = moves[place].child
                break
        best = self.space.survivors(self.best)
        self.value = self.judge.value(best, self.judge.seen(best))
        self._note()

    def evolve(
        self, evaluations: int, offspring: int, write: Callable[[Any], None], progress: Progress
    ) -> None:
        """Let generation follow generation until so many children were judged.

        Args:
            evaluations: of the whole search.
            offspring: children of a generation.
            write: keeps the state, before the first and after each.
            progress: is told how many were judged.

        Raises:
            ValueError: if no plan that the search starts from has a finite value.
        """
        check_finite(self.value, "all plans that the search starts from")
        write(self.state())
        while self.evaluations < evaluations:
            progress("levels: evolve", self.evaluations, evaluations)
            before = self.evaluations
            self.generation(min(offspring, evaluations - before))
            write(self.state())
            if self.evaluations == before:  # no swap is possible
                break

    def _windows(self) -> list[int]:
        """Return the windows that are next; all where there are no more than one batch."""
        size = len(self.judge)
        if size <= self.batch:
            return list(range(size))
        found = [(self._num_drawn + i) % size for i in range(self.batch)]
        self._num_drawn += self.batch
        return found

    def _children(self, size: int) -> list[Move]:
        """Return children that are not known to be worse; fewer where there are no more."""
        found: dict[Individual, Move] = {}
        incumbent = self.space.survivors(self.best)
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
                self.space.survivors(move.child), incumbent
            ):
                found[move.child] = move
        return list(found.values())

    def _note(self) -> None:
        vector = self.space.plain(self.best)
        number = len(self.history)
        self.history.append(
            Generation(number, self.evaluations, self.judge.num_tokens, self.value, vector)
        )

    def state(self) -> dict[str, Any]:
        """Return all that a search goes on from, as JSON holds it."""
        return {
            "best": self.space.plain(self.best) if self.history else None,
            "value": self.value if self.value < math.inf else None,
            "evaluations": self.evaluations,
            "history": [asdict(g) for g in self.history],
            "drawn": self._num_drawn,
            "random": bytes(self.generator.get_state().tolist()).hex(),
            "drawing": self.drawing.state(),
            "judge": self.judge.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.judge.load(state["judge"])
        if not state["history"]:  # nothing but what was judged is known: all else begins anew
            return
        self.best = self.space.individual(state["best"])
        self.value = math.inf if state["value"] is None else float(state["value"])
        self.evaluations = int(state["evaluations"])
        self.history = [Generation(**g) for g in state["history"]]
        self._num_drawn = int(state["drawn"])
        random = torch.tensor(list(bytes.fromhex(state["random"])), dtype=torch.uint8)
        self.generator.set_state(random)
        self.drawing.load(state["drawing"])
