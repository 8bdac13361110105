"""One interface for all optimizers: ask for candidates in a box, tell what they are worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from natsel.common.numbers import check_whole
from natsel.common.registry import Registry
from natsel.features.search.cma_es import CMAES
from natsel.features.search.dbo import DungBeetle
from natsel.features.search.random import RandomSearch


class Optimizer(Protocol):
    """Proposes candidates in [-1, 1]^d and learns from their values; higher is better."""

    def ask(self) -> Tensor:
        """Return the next candidates, float64 ``[m, d]``."""
        ...

    def tell(self, candidates: Tensor, values: Tensor) -> None:
        """Learn the values ``[m]`` of the candidates that were asked for last."""
        ...


OPTIMIZERS: Registry[Callable[..., Optimizer]] = Registry(
    "optimizer", {"dbo": DungBeetle, "cma": CMAES, "random": RandomSearch}
)


def optimizer(
    name: str, dimension: int, *, generations: int, population: int, generator: torch.Generator
) -> Optimizer:
    """Return a fresh optimizer.

    Args:
        name: "dbo" (the paper's), "cma" (needs the ``search`` extra) or "random" (the control).
        dimension: d, of the box [-1, 1]^d.
        generations: how often it will be asked.
        population: how many candidates each time, at least 2.
        generator: where all its randomness comes from.

    Returns:
        The optimizer.

    Raises:
        ValueError: if an argument is not allowed.
        MissingExtraError: if "cma" is asked for and not installed.
    """
    made = OPTIMIZERS.find(name)
    sizes = {"dimension": (dimension, 1), "generations": (generations, 1)}
    for argument, (value, least) in {**sizes, "population": (population, 2)}.items():
        check_whole(argument, value, least)
    return made(dimension, generations=generations, population=population, generator=generator)


class Found(NamedTuple):
    """The best that a search saw.

    Attributes:
        candidate: ``[d]``.
        value: what it is worth.
        history: the best value after each generation.
    """

    candidate: Tensor
    value: float
    history: tuple[float, ...]


def maximise(
    objective: Callable[[Tensor], Tensor], searcher: Optimizer, *, generations: int
) -> Found:
    """Let an optimizer search for the largest value of an objective.

    Args:
        objective: from candidates ``[m, d]`` to values ``[m]``.
        searcher: from :func:`optimizer`.
        generations: how many rounds.

    Returns:
        The best candidate that was seen; the first of equals.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> searcher = optimizer("dbo", 2, generations=30, population=10, generator=generator)
        >>> maximise(lambda x: -x.square().sum(1), searcher, generations=30).value > -1e-3
        True
    """
    best: tuple[Tensor, float] | None = None
    history = []
    for _ in range(generations):
        candidates = searcher.ask()
        values = objective(candidates).double()
        searcher.tell(candidates, values)
        top = int(values.argmax())
        if best is None or float(values[top]) > best[1]:
            best = candidates[top].clone(), float(values[top])
        history.append(best[1])
    assert best is not None
    return Found(best[0], best[1], tuple(history))
