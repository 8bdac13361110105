"""The table of scorers that know branches and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from natsel.common.batches import Data
from natsel.common.registry import Registry
from natsel.communities import Communities
from natsel.fitness.registry import FITNESS

Criterion = Callable[[Any, Tensor], Tensor]


class BranchScorer(NamedTuple):
    """A number for each branch, from data.

    Attributes:
        name: how users call it.
        score: from communities of branches, data and the loss to one tensor ``[size]`` for each
            community.
    """

    name: str
    score: Callable[[Communities, Data, Criterion], Mapping[str, Tensor]]


BRANCH_SCORERS: Registry[BranchScorer] = Registry("branch scorer")


def names_for_branches() -> tuple[str, ...]:
    """Name all that scores branches: these, and signals of the gradient of a mass.

    Example:
        >>> names_for_branches()
        ('loss', 'cosine', 'relative-norm', 'taylor', 'fisher', 'alignment')
    """
    return (*BRANCH_SCORERS, *(name for name, f in FITNESS.items() if f.branches))
