"""The same width in every layer: communities that differ in their layer alone keep equal counts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from natsel.communities import Communities
from natsel.selection.counts import Bounds
from natsel.selection.normalize import Normalization, normalized

_NUMBER = re.compile(r"\d+")


def layers_apart(
    sizes: Mapping[str, int], names: Iterable[str], communities: Communities | None = None
) -> list[list[str]]:
    """Return the communities whose names differ in numbers alone, of one kind and one size.

    Args:
        sizes: of the communities.
        names: those that take part.
        communities: tell the kinds.

    Returns:
        Groups of names, in the order of their first ones.

    Example:
        >>> sizes = {"layers.0.mlp": 8, "layers.1.mlp": 8, "layers.2.mlp": 6, "head": 8}
        >>> layers_apart(sizes, sizes)
        [['layers.0.mlp', 'layers.1.mlp'], ['layers.2.mlp'], ['head']]
    """
    found: dict[tuple[str, str, int], list[str]] = {}
    for name in names:
        kind = communities[name].kind if communities is not None else ""
        found.setdefault((_NUMBER.sub("*", name), kind, sizes[name]), []).append(name)
    return list(found.values())


def tied_bounds(bounds: Sequence[Bounds]) -> Bounds:
    """Return what may be left of each of several communities that keep equal counts.

    Example:
        >>> tied_bounds([Bounds(size=20, floor=1, multiple=8), Bounds(size=20, floor=9)])
        Bounds(size=20, floor=9, multiple=8)
    """
    multiple = max(b.multiple for b in bounds)
    return Bounds(bounds[0].size, max(b.floor for b in bounds), multiple)


def tied_scores(
    scores: Sequence[Tensor], ties: Sequence[Tensor | None], normalize: Normalization
) -> Tensor:
    """Return the scores of places by rank: the least fit of every community are one place.

    Args:
        scores: ``[n]`` per community, all as long.
        ties: a second score per community, or None.
        normalize: how scores become comparable across communities.

    Returns:
        ``[n]``, the mean over communities of what stands at each rank, the fittest first.

    Example:
        >>> tied_scores([torch.tensor([1.0, 3.0]), torch.tensor([6.0, 2.0])], [None, None], None)
        tensor([4.5000, 1.5000], dtype=torch.float64)
    """
    parts = [normalized(s, normalize, t) for s, t in zip(scores, ties, strict=True)]
    return torch.stack([p.sort(descending=True).values for p in parts]).mean(0)
