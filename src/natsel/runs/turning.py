"""The residual width turned before a model is pruned by command: its cost, in words and counted."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields
from typing import Any

from torch import nn

from natsel.common.batches import Data
from natsel.extraction.rotation import Rotation, rotate, rotation_of
from natsel.selection import Parameters
from natsel.selection.select import Budget

MOST = 0.9
"""Share of the stream of which it is said along how many axes it lies."""


def turned_model(model: nn.Module, data: Data) -> tuple[nn.Module, Rotation]:
    """Return a model with its residual width turned, and what that did.

    Raises:
        ValueError: if the model cannot be turned.
        VerificationError: if the turned one computes something else.
    """
    with warnings.catch_warnings():
        # What it says of the head is said with the result.
        warnings.filterwarnings("ignore", message=".*was tied to an embedding")
        found = rotate(model, data)
    done = rotation_of(found)
    assert done is not None
    return found, done


def of_the_given(budget: Budget, num_given: int) -> Budget:
    """Return a budget whose share is of so many parameters, whatever the model has by now."""
    if not isinstance(budget, Parameters) or not isinstance(budget.value, float):
        return budget
    return Parameters(math.floor(budget.value * num_given))


def turned_words(turned: Rotation) -> str:
    """Say what turning the residual width did, and what it cost."""
    cost = (
        f"; its head is no longer tied to the embedding: {turned.num_untied:,} parameters more, "
        "which a budget of parameters counts"
        if turned.num_untied
        else ""
    )
    return (
        f"{turned.community} was turned first: the same function, to {turned.error:.1e} in "
        f"float64; {MOST:.0%} of it lies along {turned.axes_of(MOST)} of "
        f"{len(turned.explained)} axes{cost}"
    )


def plain_rotation(turned: Rotation) -> dict[str, Any]:
    """Return what was done as plain data."""
    told = {field.name: getattr(turned, field.name) for field in fields(turned)}
    return {**told, "explained": turned.explained.tolist(), "untied": list(turned.untied)}
