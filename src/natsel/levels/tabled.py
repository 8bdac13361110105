"""What is measured, added up from a table: candidates of a search need no rebuild.

A budget of time builds and measures a small model for each reading. Here communities that are
alike are measured together at a few levels, and branches that are alike with half of them out; a
plan reads what these savings come to. What is found in the end is measured as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.communities import Communities
from natsel.communities.surgery.surgery import dead_branches
from natsel.levels.moves import mended
from natsel.levels.space import Individual, Space
from natsel.selection.budget import Gauge
from natsel.selection.uniform import layers_apart

SHARES = (0.75, 0.5, 0.25)
"""Of a community that stay, where it is measured; and the fewest that may."""
TRIES = 6
"""How often a plan that measures too much is tightened."""


@dataclass(frozen=True)
class Saving:
    """What a community saves by how many of it stay.

    Attributes:
        kept: counts that were measured, falling, the first one all.
        saved: by each, never less than by the one before.
    """

    kept: tuple[int, ...]
    saved: tuple[float, ...]

    def at(self, num: int) -> float:
        """Return what is saved with so many left; between two counts on the line.

        Example:
            >>> Saving((8, 4, 2), (0.0, 1.0, 2.0)).at(6)
            0.5
        """
        for i in range(1, len(self.kept)):
            high, low = self.kept[i - 1], self.kept[i]
            if num >= low:
                part = (high - num) / (high - low)
                return self.saved[i - 1] + part * (self.saved[i] - self.saved[i - 1])
        return self.saved[-1]


def tabled(gauge: Gauge, communities: Communities) -> Gauge:
    """Return a gauge that reads off a table of what another one measured.

    Args:
        gauge: that measures.
        communities: that take part.

    Returns:
        A gauge of the same limit. Savings are scaled so that it is right where all communities
        give half.
    """
    full = {name: torch.ones(c.size, dtype=torch.bool) for name, c in communities.items()}
    whole = gauge.read(full)
    streams = {n: c for n, c in communities.items() if c.branches}
    sizes = {n: c.size for n, c in communities.items() if n not in streams}
    savings: dict[str, Saving] = {}
    for group in layers_apart(sizes, sizes, communities) if sizes else ():
        size, least = sizes[group[0]], max(1, communities[group[0]].minimum)
        kept = sorted({max(least, round(s * size)) for s in SHARES} | {least}, reverse=True)
        kept = [size, *(k for k in kept if k < size)]
        saved = [0.0]
        for num in kept[1:]:
            cut = {n: torch.arange(size) < num for n in group}
            saved.append(max(saved[-1], (whole - gauge.read({**full, **cut})) / len(group)))
        savings |= dict.fromkeys(group, Saving(tuple(kept), tuple(saved)))
    worth = {n: _of_branches(n, communities, full, whole, gauge.read) for n in streams}
    inside = {n: {p.tensor for p in c.slices} for n, c in communities.items()}

    def saves(survivors: Mapping[str, Tensor]) -> float:
        dead = {t for c in streams.values() for b in dead_branches(c, survivors) for t in b.tensors}
        total = sum(float(w[~survivors[n]].sum()) for n, w in worth.items())
        for name, saving in savings.items():
            if not inside[name] or not inside[name] <= dead:
                total += saving.at(int(survivors[name].sum()))
        return total

    half = {
        n: torch.arange(c.size) < max(1, c.minimum, c.size // 2) for n, c in communities.items()
    }
    told = saves(half)
    true = whole - gauge.read(half)
    scale = true / told if told > 0 and true > 0 else 1.0
    return replace(
        gauge,
        read=lambda survivors: whole - scale * saves(survivors),
        describe=lambda value: f"{gauge.describe(value)}, by a table",
        num_steps=None,
    )


def _of_branches(
    name: str,
    communities: Communities,
    full: Mapping[str, Tensor],
    whole: float,
    read: Callable[[Mapping[str, Tensor]], float],
) -> Tensor:
    """Return what each branch saves: as much as others of one name with as many tensors."""
    branches = communities[name].branches
    worth = torch.zeros(len(branches), dtype=torch.float64)
    groups: dict[tuple[str, int], list[int]] = {}
    for number, branch in enumerate(branches):
        groups.setdefault((branch.name.rpartition(".")[2], len(branch.tensors)), []).append(number)
    for numbers in groups.values():
        out = numbers[:: 2 if len(numbers) > 1 else 1]
        if len(out) == len(branches):  # one of a stream stays
            out = out[1:] or out
        mask = torch.ones(len(branches), dtype=torch.bool)
        mask[out] = False
        if bool(mask.any()):
            worth[numbers] = max(0.0, whole - read({**full, name: mask})) / len(out)
    return worth


def measured(space: Space, plan: Individual, real: Gauge) -> tuple[Individual, float]:
    """Return a plan that meets a budget as it is measured, and its reading.

    Args:
        space: with a table in place of the measurement; its limit is as it was afterwards.
        plan: that meets the table.
        real: that measures.

    Raises:
        ValueError: if no tightening of the plan meets the budget.
    """
    table = space.gauge
    worst = sorted(range(len(space.places)), key=lambda at: -space.places[at].size)
    try:
        for _ in range(TRIES):
            value = real.read(space.survivors(plan))
            if value <= real.limit:
                return plan, value
            # The table promised too much: it has to promise that much less.
            over = 1 + 1.2 * (value / real.limit - 1)
            space.gauge = replace(space.gauge, limit=space.gauge.limit / over)
            if not space.meets(space.lowest):
                break
            plan = mended(space, plan, worst)
    finally:
        space.gauge = table
    refuse(real.name, real.asked, f"at least {real.describe(value)}: what the search found takes")
