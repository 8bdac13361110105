"""The recipe of EvoPress for depth, written down from the paper, with nothing of natsel in it.

O. Sieberling et al., arXiv 2410.14649, algorithm 1 with the depth-pruning mutation of section 4.1:
a search point says which branches are dropped, as many as are asked. Each generation makes
offspring of the parent by flipping min(randint, randint) pairs (one dropped branch back, one kept
branch out); a multi-step selection evaluates all on few tokens, the best on more, the last together
with the parent on all. The model is copied, its branches multiplied by 0, and all of it runs.
"""

from __future__ import annotations

import random
from collections.abc import Callable

Fitness = Callable[[frozenset[int], int], float]
"""Of a set of dropped branches on the first so many windows, lower is better."""


def evopress(
    num_branches: int,
    num_dropped: int,
    fitness: Fitness,
    *,
    generations: int,
    offspring: int,
    survivors: tuple[int, ...],
    windows: tuple[int, ...],
    initial: int = 8,
    seed: int = 0,
) -> tuple[frozenset[int], float]:
    rng = random.Random(seed)
    starts = [frozenset(rng.sample(range(num_branches), num_dropped)) for _ in range(initial)]
    parent = min(starts, key=lambda s: fitness(s, windows[0]))
    for _ in range(generations):
        pool: list[frozenset[int]] = []
        while len(pool) < offspring:
            child = set(parent)
            for _ in range(min(rng.randint(1, 3), rng.randint(1, 3))):
                back = rng.choice(sorted(child))
                out = rng.choice(sorted(set(range(num_branches)) - child))
                child = (child - {back}) | {out}
            if frozenset(child) != parent:
                pool.append(frozenset(child))
        for step, (keep, num) in enumerate(zip(survivors, windows, strict=True)):
            if step == len(survivors) - 1:
                pool.append(parent)  # elitism
            pool = sorted(dict.fromkeys(pool), key=lambda s: fitness(s, num))[:keep]
        parent = pool[0]
    return parent, fitness(parent, windows[-1])
