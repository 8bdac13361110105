"""Features that only rename the rank: one order, so one selection (the plateau)."""

from __future__ import annotations

from torch import Tensor

from natsel.features.registry import Feature, register


def identity(u: Tensor) -> Tensor:
    """Return u."""
    return u.double()


def square(u: Tensor) -> Tensor:
    """Return u squared."""
    return u.double().square()


def root(u: Tensor) -> Tensor:
    """Return the square root of u."""
    return u.double().sqrt()


def logarithm(u: Tensor) -> Tensor:
    """Return log(1 + 9 u) / log 10, from 0 to 1."""
    return (1 + 9 * u.double()).log10()


MONOTONE = tuple(
    register(Feature(name, function, kappa=0))
    for name, function in {
        "identity": identity,
        "square": square,
        "root": root,
        "log": logarithm,
    }.items()
)
