"""A network of the user's own module, by ``module:name`` of what makes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from natsel.common.calls import Inputs, as_inputs
from natsel.common.errors import refuse
from natsel.common.importing import imported, made

FACTORY = "a function of no arguments that returns a model, or (model, example_inputs)"


def own_model(text: str, *, seed: int = 0) -> tuple[nn.Module, Inputs | None]:
    """Make a model with a user's own function; the same seed gives the same random weights.

    The global random state is neither read nor changed.

    Args:
        text: ``module:name`` of a function of no arguments, a class that needs none, or a model.
        seed: of what torch draws meanwhile.

    Returns:
        The model, and the inputs that came with it.

    Raises:
        ValueError: if there is no such thing, it fails, or makes something else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        found: Any = imported("model", text)
        if not isinstance(found, nn.Module):
            # Again: what a module draws while it is imported, it draws only once.
            torch.default_generator.manual_seed(seed)
            found = made("model", text, found)
    inputs: Inputs | None = None
    if isinstance(found, list | tuple) and len(found) == 2:
        found, given = found
        inputs = as_inputs(given)
    if not isinstance(found, nn.Module):
        refuse("model", text, f"{FACTORY}, this one returns a {type(found).__name__}")
    return found, inputs
