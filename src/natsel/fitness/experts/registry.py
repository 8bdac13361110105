"""The table of scorers that know experts and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from natsel.common.batches import Data
from natsel.common.registry import Registry
from natsel.communities import Communities


class ExpertScorer(NamedTuple):
    """A number for each expert, from data.

    Attributes:
        name: how users call it.
        score: from communities of experts and data to one tensor ``[size]`` for each community.
    """

    name: str
    score: Callable[[Communities, Data], Mapping[str, Tensor]]


EXPERT_SCORERS: Registry[ExpertScorer] = Registry("expert scorer")
