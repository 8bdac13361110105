"""Python numbers in modules that hold a size: where they may be, and which to try."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn

from natsel.communities.community import Community, Rebinding
from natsel.communities.numbers import numbers_in

Item = TypeVar("Item")

MAX_ATTEMPTS = 64

NUM_LEVELS = 3


def candidates(model: nn.Module, community: Community) -> tuple[Rebinding, ...]:
    """Find plain integer attributes that hold the size of a community or of one of its slices.

    They are looked for in the modules around its slices, and in the parts of those that have no
    parameters of their own, such as a shortcut that pads.

    Args:
        model: the model.
        community: whose size is looked for.

    Returns:
        What might have to follow, the nearest modules first.
    """
    around = dict.fromkeys(
        path for s in community.slices for path in _ancestors(s.tensor.rpartition(".")[0])
    )
    paths = dict(around)
    for path in around:
        for name, child in model.get_submodule(path).named_children():
            if next(child.parameters(), None) is None:
                paths[f"{path}.{name}" if path else name] = None
    widths = {1, *(s.index.shape[1] for s in community.slices)}
    # A number may count parts of a width: query heads of a key/value head, for example.
    widths = {part for width in widths for part in range(1, width + 1) if width % part == 0}
    found = []
    for path in paths:
        module = model.get_submodule(path)
        if type(module).__module__.startswith("torch.nn.modules"):
            continue
        for attribute, value in numbers_in(module):
            width, rest = divmod(value, community.size)
            if not rest and width in widths:
                found.append(Rebinding(path, attribute, width))
    return tuple(found)


def attempts(community: Community, found: tuple[Rebinding, ...]) -> Iterator[list[Community]]:
    """Yield a community with no rebinding, then with more and more, those of as many at once.

    Numbers of one name follow together first, wherever they are: the layers of a model that share
    their heads are alike. Then each is tried by itself. The fewest that make the model exact are
    taken: a number that forward does not use stays. Of as many, a number that is the count of the
    populations comes first.
    """
    found = tuple(sorted(found, key=lambda bound: bound.per_population != 1))
    names = list(dict.fromkeys((b.attribute, b.per_population) for b in found))
    together = (
        tuple(b for b in found if (b.attribute, b.per_population) in chosen)
        for chosen in _subsets(names)
    )
    tried = dict.fromkeys(itertools.islice(together, MAX_ATTEMPTS))
    tried |= dict.fromkeys(itertools.islice(_subsets(found), MAX_ATTEMPTS))
    for _, subsets in itertools.groupby(sorted(tried, key=len), key=len):
        yield [replace(community, rebindings=subset) for subset in subsets]


def _subsets(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """Yield every subset, the small ones first."""
    return itertools.chain.from_iterable(
        itertools.combinations(items, n) for n in range(len(items) + 1)
    )


def alike(community: Community, found: tuple[Rebinding, ...], solved: Community) -> Community:
    """Return a community with the numbers rebound that another one needed, by their names."""
    names = {(bound.attribute, bound.per_population) for bound in solved.rebindings}
    same = tuple(b for b in found if (b.attribute, b.per_population) in names)
    return replace(community, rebindings=same)


def conflict(communities: Sequence[Community]) -> str | None:
    """Return which number two communities would set, or None."""
    seen: set[tuple[str, str]] = set()
    for community in communities:
        for bound in community.rebindings:
            key = (bound.module, bound.attribute)
            if key in seen:
                return f"{bound.module}.{bound.attribute}".lstrip(".")
            seen.add(key)
    return None


def _ancestors(path: str) -> list[str]:
    parts = path.split(".") if path else []
    last = max(len(parts) - NUM_LEVELS, -1)
    return [".".join(parts[:i]) for i in range(len(parts), last, -1)]
