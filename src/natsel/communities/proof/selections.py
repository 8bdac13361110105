"""Which populations a trial removes: choices that tell a removal that is masking from others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from natsel.communities.community import Community

SHARES = (0.25, 0.4, 0.5, 0.6, 0.75)

FEW = 4
"""Populations of which all may stay in some selections, so that fewer selections do."""


def alone(community: Community) -> Iterator[dict[str, Tensor]]:
    """Yield selections of one community: about half of it stays, all but one, and few.

    Both even and odd numbers stay where there are enough: a split into halves shows then.

    Args:
        community: to select in.

    Yields:
        Its survivors by its name.

    Example:
        >>> from natsel.communities.community import Cost
        >>> heads = Community("attention", "head", 6, Cost(1, 1.0), ())
        >>> [int(survivors["attention"].sum()) for survivors in alone(heads)]
        [4, 5, 1]
    """
    generator = torch.Generator().manual_seed(2)
    least, size = max(community.minimum, 1), community.size
    middle = size // 2 + (size // 2) % 2
    counts = dict.fromkeys(n for n in (middle, size - 1, least) if least <= n < size)
    if len({n % 2 for n in counts}) == 1:
        counts |= dict.fromkeys([n for n in (least + 1, size - 2) if least < n < size - 1][:1])
    for num_alive in counts:
        yield {community.name: _alive(size, num_alive, generator)}
    if size == 2 and least == 1:
        yield {community.name: torch.tensor([False, True])}


def choices(communities: Sequence[Community]) -> Iterator[dict[str, Tensor]]:
    """Yield selections of survivors that tell a removal that is masking from one that is not.

    In each, a community keeps one of several shares of its populations, unevenly, and not the
    same one in all, where it has several. Any two communities keep different shares at least
    once: a split into equal halves is not mistaken for one that follows the populations.

    Args:
        communities: to select in.

    Yields:
        One boolean tensor per community.
    """
    generator = torch.Generator().manual_seed(1)
    for counts in zip(*_courses(communities), strict=True):
        yield {
            c.name: _alive(c.size, num_alive, generator)
            for c, num_alive in zip(communities, counts, strict=True)
        }


def _courses(communities: Sequence[Community]) -> list[tuple[int, ...]]:
    """Return how many each community keeps, selection by selection; as few selections as do."""
    num_selections = 2
    while (found := _distinct_courses(communities, num_selections)) is None:
        num_selections += 1
    return found


def _distinct_courses(
    communities: Sequence[Community], num_selections: int
) -> list[tuple[int, ...]] | None:
    """Give each community a course of its own in which it loses something, or return None."""
    levels = [_levels(c.size, c.minimum) for c in communities]
    kinds = dict.fromkeys(zip((c.size for c in communities), levels, strict=True))
    open_courses = {kind: _several_first(kind[1], num_selections) for kind in kinds}
    taken: set[tuple[float, ...]] = set()
    found: dict[int, tuple[int, ...]] = {}
    # Those with the fewest levels choose first.
    for number in sorted(range(len(levels)), key=lambda i: len(levels[i])):
        size = communities[number].size
        for course in open_courses[size, levels[number]]:
            shares = tuple(count / size for count in course)
            if min(shares) < 1 and shares not in taken:
                taken.add(shares)
                found[number] = course
                break
        else:
            return None
    return [found[number] for number in range(len(levels))]


def _several_first(counts: tuple[int, ...], num_selections: int) -> Iterator[tuple[int, ...]]:
    """Yield every sequence of counts, those that are the same throughout at the end."""
    starts = [i * len(counts) // num_selections for i in range(num_selections)]
    rotated = [counts[start:] + counts[:start] for start in starts]
    yield from (course for course in itertools.product(*rotated) if len(set(course)) > 1)
    yield from ((count,) * num_selections for count in counts)


def _levels(size: int, minimum: int) -> tuple[int, ...]:
    """Return how many may be kept, from few to all but one; of a few, all as well."""
    counts = {round(size * share) for share in SHARES} | {size - 1, size if size <= FEW else 1}
    return tuple(sorted(n for n in counts if max(minimum, 1) <= n <= size))


def _alive(size: int, num_alive: int, generator: torch.Generator) -> Tensor:
    """Lose the last of all but one; else the first and others, by chance."""
    alive = torch.zeros(size, dtype=torch.bool)
    if num_alive >= size - 1:
        alive[:num_alive] = True
    else:
        alive[1 + torch.randperm(size - 1, generator=generator)[:num_alive]] = True
    return alive
