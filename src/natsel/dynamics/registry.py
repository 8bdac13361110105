"""The one table of dynamics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from natsel.common.importing import check_call
from natsel.common.registry import Registry


class Step(Protocol):
    """One discrete step of a law, for every community at once.

    ``mass`` and ``fitness`` have shape ``[..., n]``; populations compete along the last axis, and
    the axes before it are communities of the same size that know nothing of each other.
    ``fitness`` is >= 0, and its mean over the living of a community is 1. ``pressure`` is a number
    or a tensor that broadcasts against ``[..., n]``, ``competition`` a tensor that broadcasts
    against ``[..., n, n]``. A mass of exactly 0 is extinct and stays 0 under every law. No
    argument is changed.
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
            small dt (for a stochastic law, of its mean): ``velocity(mass, fitness, *, pressure,
            competition)``. None where nobody wrote it down.
        competes: whether it wants the competition matrix ``[..., n, n]``.
        stochastic: whether it draws from the generator.
        rate: time that passes in one training step, unless the user says otherwise.
        pressure: the selection pressure, unless the user says otherwise.
        adaptation: how much the pressure rises per step under a carrying capacity, unless the
            user says otherwise.
    """

    name: str
    step: Step
    space: Literal["simplex", "box"]
    velocity: Callable[..., Tensor] | None = None
    competes: bool = False
    stochastic: bool = False
    rate: float = 0.01
    pressure: float = 1.0
    adaptation: float = 1e-3

    def constants(self) -> dict[str, float]:
        """Return the constants of a run that the law has an opinion on."""
        return {"rate": self.rate, "pressure": self.pressure, "adaptation": self.adaptation}

    def bind(self, **constants: float) -> Dynamic:
        """The same law with other constants of its own.

        Args:
            constants: keywords of ``step`` that only this law has.

        Returns:
            A law that is not in the table; give it wherever a name is accepted.

        Example:
            >>> import natsel.dynamics
            >>> natsel.dynamics.get("replicator-mutator").bind(mutation=0.05).space
            'simplex'
        """
        step: Callable[..., Tensor] = self.step
        return self._replace(
            step=partial(step, **constants),
            velocity=self.velocity and partial(self.velocity, **constants),
        )


DYNAMICS: Registry[Dynamic] = Registry("dynamics")


def register(dynamic: Dynamic) -> Dynamic:
    """Add a law to the table, so that it has a name everywhere.

    Args:
        dynamic: the law.

    Returns:
        The same law.

    Raises:
        ValueError: if the name is taken.
    """
    return DYNAMICS.add(dynamic.name, dynamic)


def get(dynamics: str | Dynamic | Step) -> Dynamic:
    """Look a law up by its name; a law or a step function of the user's own passes through.

    A bare function is taken to be deterministic, without competition matrix, and to keep masses
    in [0, 1]: for anything else, give a :class:`Dynamic`. A step of the table, also as a
    ``functools.partial``, is recognised as its law.

    Args:
        dynamics: a registered name, a :class:`Dynamic`, a function with the signature of
            :class:`Step`, or ``module:name`` of one of these.

    Returns:
        The law.

    Raises:
        ValueError: if no law has this name, or what was imported is none.

    Example:
        >>> def decay(mass, fitness, dt, *, pressure=1.0, competition=None, generator=None):
        ...     return mass / (1 + dt * pressure)
        >>> law = get(decay)
        >>> law.name, law.space, law.velocity
        ('decay', 'box', None)
    """
    if isinstance(dynamics, Dynamic):
        return dynamics
    if isinstance(dynamics, str) or not callable(dynamics):
        return _found(dynamics)
    if isinstance(dynamics, partial):
        law = get(dynamics.func)
        if law is DYNAMICS.get(law.name):
            return law.bind(**dynamics.keywords)
        return law._replace(step=dynamics)
    for law in DYNAMICS.values():
        if law.step is dynamics:
            return law
    return Dynamic(getattr(dynamics, "__name__", type(dynamics).__name__), dynamics, "box")


def _found(name: str) -> Dynamic:
    found = DYNAMICS.find_or_import(name)
    if isinstance(found, Dynamic):
        return found
    keywords = dict.fromkeys(("pressure", "competition", "generator"))
    check_call("dynamics", name, found, "mass", "fitness", "dt", **keywords)
    return get(found)
