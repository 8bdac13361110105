"""The one table of dynamics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from natsel.common.errors import choose


class Step(Protocol):
    """One discrete step of a law, for every community at once.

    ``mass`` and ``fitness`` have shape ``[..., n]``; populations compete along the last axis.
    A mass of exactly 0 is extinct and stays 0 under every law.
    """

    def __call__(
        self,
        mass: Tensor,
        fitness: Tensor,
        dt: float,
        *,
        pressure: float | Tensor = 1.0,
        competition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor: ...


class Dynamic(NamedTuple):
    """A law and what a run needs to know to use it.

    Attributes:
        name: how users call it.
        step: the discrete step.
        space: "simplex" (the sum of the masses is conserved, a mass may pass 1 and its influence
            is bounded to 1) or "box" (each mass stays in [0, 1]).
        velocity: the right-hand side of the differential equation that ``step`` follows for
            small dt (for a stochastic law, of its mean), with the same keywords.
        competes: whether it wants the competition matrix ``[..., n, n]``.
        stochastic: whether it draws from the generator.
        rate: time that passes in one training step, unless the user says otherwise.
        pressure: the selection pressure, unless the user says otherwise.
    """

    name: str
    step: Step
    space: Literal["simplex", "box"]
    velocity: Callable[..., Tensor]
    competes: bool = False
    stochastic: bool = False
    rate: float = 0.01
    pressure: float = 1.0


DYNAMICS: dict[str, Dynamic] = {}


def register(dynamic: Dynamic) -> Dynamic:
    """Add a law to the table, so that it has a name everywhere.

    Args:
        dynamic: the law.

    Returns:
        The same law.

    Raises:
        ValueError: if the name is taken.
    """
    if dynamic.name in DYNAMICS:
        raise ValueError(f"dynamics={dynamic.name!r} is already registered")
    DYNAMICS[dynamic.name] = dynamic
    return dynamic


def get(dynamics: str | Dynamic) -> Dynamic:
    """Look a law up by its name; a :class:`Dynamic` passes through.

    Args:
        dynamics: a registered name or a law of the user's own.

    Returns:
        The law.

    Raises:
        ValueError: if no law has this name.
    """
    if isinstance(dynamics, Dynamic):
        return dynamics
    return DYNAMICS[choose("dynamics", dynamics, DYNAMICS)]
