"""The networks of a study: built for a data set, and put under selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from natsel.common.calls import logits_of
from natsel.common.errors import first_line, refuse
from natsel.common.importing import names_own
from natsel.communities import discover
from natsel.evolution import Evolution
from natsel.io.own import own_model
from natsel.models import build
from natsel.runs.splits import Splits
from natsel.selection import Sparsity


def network(name: str, splits: Splits, *, seed: int, options: Mapping[str, Any]) -> nn.Module:
    """Build a reference network that fits a data set.

    Args:
        name: of the reference network, or ``module:name`` of a function that makes one.
        splits: the data set.
        seed: of the initial weights.
        options: of the network.

    Raises:
        ValueError: if an option is not allowed, or a network of the user's own does not fit.
    """
    if names_own(name):
        return _own(name, splits, seed, options)
    return build(
        name, in_shape=splits.in_shape, num_classes=len(splits.classes), seed=seed, **options
    )


def _own(name: str, splits: Splits, seed: int, options: Mapping[str, Any]) -> nn.Module:
    if options:
        refuse("options", dict(options), f"none: {name} is not a reference network")
    model = own_model(name, seed=seed)[0].cpu().eval()
    wanted = len(splits.classes)
    try:
        with torch.no_grad():
            shape = tuple(logits_of(model(splits.train[0][:2])).shape)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        refuse("model", name, f"a network that runs on {splits.name} ({first_line(error)})")
    if len(shape) < 2 or shape[-1] < wanted:
        told = f"{wanted} outputs for the classes of {splits.name}, this one returns {shape}"
        refuse("model", name, f"a network with at least {told}")
    return model.train()


def put_under_selection(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    splits: Splits,
    *,
    dynamics: str,
    seed: int,
    constants: Mapping[str, Any],
    fitness: str = "taylor",
) -> Evolution:
    """Find the communities of a network and let them evolve with every step of its optimizer.

    Args:
        model: gets gates.
        optimizer: of the model.
        splits: the data set; two samples are looked at.
        dynamics: the law.
        seed: of stochastic laws.
        constants: of the evolution (see ``natsel.evolution.Ecology``).
        fitness: the signal.

    Raises:
        ValueError: if the network has no community.
    """
    communities = discover(model, (splits.train[0][:2],))
    return Evolution(
        communities,
        dynamics=dynamics,
        fitness=fitness,
        optimizer=optimizer,
        seed=seed,
        **constants,
    )


def reduced(widths: Sequence[int], sparsity: float) -> tuple[int, ...]:
    """Return the hidden widths that remain at a sparsity.

    Example:
        >>> reduced((512, 256), 0.9)
        (51, 26)
    """
    return tuple(width - Sparsity(sparsity).count(width) for width in widths)
