"""Of what a kept count should be a multiple: measured on this device, not assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from natsel.common.calls import tensors_of_inputs
from natsel.common.timing import median, time_in_turn
from natsel.communities import Communities
from natsel.communities.gates.gates import folded
from natsel.communities.kinds import kind_of
from natsel.communities.surgery.surgery import remove
from natsel.selection.counts import Bounds

AUTO = "auto"
MULTIPLES = (1, 4, 8, 16, 32)
"""What is tried."""

TOLERANCE = 0.03
"""How much slower than the best a smaller multiple may be: it is closer to what was asked."""

REPEATS = 30


@dataclass(frozen=True)
class Rounding:
    """The multiple that was chosen, and why.

    Attributes:
        multiple: of what the kept counts are multiples.
        ms: what a forward pass takes with as many survivors as the budget leaves, by multiple:
            between the counts below and above that are multiples.
        batch_size: how many samples at once.
    """

    multiple: int
    ms: Mapping[int, float]
    batch_size: int

    def summary(self) -> str:
        """Return what was chosen, and why, in one line.

        Example:
            >>> print(Rounding(8, {1: 2.0, 8: 1.25}, 64).summary())
            multiples of 8: for as many survivors a pass takes 2 ms with multiples of 1, 1.25 ms with 8 (at batch 64); the smallest within 3% of the best
        """  # noqa: E501
        if not self.ms:
            return "multiples of 1: no width shrinks"
        first, *others = ((m, f"{ms:.3g} ms") for m, ms in self.ms.items())
        listed = ", ".join(
            [f"{first[1]} with multiples of {first[0]}"] + [f"{ms} with {m}" for m, ms in others]
        )
        return (
            f"multiples of {self.multiple}: for as many survivors a pass takes {listed} "
            f"(at batch {self.batch_size}); the smallest within {TOLERANCE:.0%} of the best"
        )


def choose_multiple(ms: Mapping[int, float]) -> int:
    """Return the smallest multiple whose time is within 3 % of the best.

    Args:
        ms: time by multiple, for the same number of survivors.

    Example:
        >>> choose_multiple({1: 2.0, 4: 1.51, 8: 1.5, 16: 1.6})
        4
    """
    best = min(ms.values())
    return min(m for m, value in ms.items() if value <= best * (1 + TOLERANCE))


def at_count(points: Sequence[tuple[int, float]], count: int) -> float:
    """Return the time for a number of survivors, from the times for one or two other numbers.

    Between two it is on the line through both; outside of them a survivor takes as long as one of
    the nearest.

    Args:
        points: pairs (number of survivors, time) in ascending order.
        count: how many survivors.

    Example:
        >>> at_count([(8, 1.0), (16, 2.0)], 11), at_count([(16, 2.0)], 12)
        (1.375, 1.5)
    """
    (low, low_ms), (high, high_ms) = points[0], points[-1]
    if low < count < high:
        return low_ms + (high_ms - low_ms) * (count - low) / (high - low)
    nearest, ms = (low, low_ms) if count <= low else (high, high_ms)
    return ms * count / nearest


def resized(mask: Tensor, count: int) -> Tensor:
    """Return a mask in which that many survive: of its own as many as may, then the first others.

    Example:
        >>> resized(torch.tensor([False, True, True]), 1).tolist()
        [False, True, False]
    """
    order = torch.argsort(mask.logical_not().long(), stable=True)
    result = torch.zeros_like(mask)
    result[order[:count]] = True
    return result


def measured(communities: Communities, survivors: Mapping[str, Tensor]) -> Rounding:
    """Choose a multiple by building and timing small models with widths near those of a selection.

    For each multiple all widths that shrink are rounded, once down and once up, and both models are
    timed on the communities' example inputs, all in turn. No multiple is tried that is larger than
    what some community keeps.

    Args:
        communities: of the model.
        survivors: of a selection that rounds nothing.

    Returns:
        The multiple, with the times that decided.
    """
    dense = folded(communities.model)
    counts = {name: int(mask.sum()) for name, mask in survivors.items()}
    shrinking = [
        n
        for n, k in counts.items()
        if k < communities[n].size and kind_of(communities[n].kind).rounded
    ]
    wanted = sum(counts[n] for n in shrinking)
    batch_size = _batch_size(communities)
    if not shrinking:
        return Rounding(1, {}, batch_size)
    # With a larger multiple some community could not shrink as far as the budget asks.
    largest = max(min(counts[n] for n in shrinking), 1)
    tried = [m for m in MULTIPLES if m <= largest]
    widths = {m: _around(communities, counts, shrinking, m) for m in tried}

    def small(width: tuple[int, ...]) -> nn.Module:
        masks = {n: resized(survivors[n], k) for n, k in zip(shrinking, width, strict=True)}
        return remove(dense, communities.values(), {**survivors, **masks})

    models = {f"{w}": small(w) for w in sorted({w for pair in widths.values() for w in pair})}
    times = time_in_turn(models, communities.example_inputs, repeats=REPEATS)
    medians = {name: median(values).median for name, values in times.items()}
    ms = {
        m: at_count([(sum(w), medians[f"{w}"]) for w in pair], wanted) for m, pair in widths.items()
    }
    return Rounding(choose_multiple(ms), ms, batch_size)


def _batch_size(communities: Communities) -> int:
    first = tensors_of_inputs(communities.example_inputs)[0]
    return len(first) if first.dim() else 1


def _around(
    communities: Communities, counts: Mapping[str, int], names: Sequence[str], multiple: int
) -> list[tuple[int, ...]]:
    """Return the widths below and above some counts that are multiples; once if they agree."""
    bounds = [Bounds(communities[n].size, max(communities[n].minimum, 1), multiple) for n in names]
    below = tuple(b.at_most(counts[n]) for n, b in zip(names, bounds, strict=True))
    above = tuple(b.at_least(counts[n]) for n, b in zip(names, bounds, strict=True))
    return sorted({below, above}, key=sum)
