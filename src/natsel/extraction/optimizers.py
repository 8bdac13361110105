"""An optimizer goes on with the small model: its state is cut like the parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.communities import Communities
from natsel.communities.gates import ungated_name
from natsel.communities.surgery import cut, kept_indices
from natsel.selection import Survivors


def follow(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    small: nn.Module,
    communities: Communities,
    survivors: Survivors,
) -> None:
    """Point an optimizer at the small model, in place, with its state cut to the survivors.

    State tensors of the parameter's shape (momentum, first and second moments) lose what the
    parameter lost; other state (step counts) stays. Gradients are not carried over. Where masses
    were folded into a weight, state is kept as it was for the gated weight.

    Args:
        optimizer: holds parameters of ``model``.
        model: what was extracted from, gated or not.
        small: what was extracted.
        communities: of the model.
        survivors: what ``small`` holds.

    Raises:
        ValueError: if the optimizer holds a parameter that is not in the model.
    """
    old = {ungated_name(n): p for n, p in model.named_parameters()}
    new = dict(small.named_parameters())
    names = {id(p): n for n, p in old.items()}
    kept = kept_indices(communities.values(), survivors, {**dict(model.named_buffers()), **old})
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                refuse("optimizer", tuple(parameter.shape), "parameters of the given model only")
    for group in optimizer.param_groups:
        replaced = []
        for parameter in group["params"]:
            name = names[id(parameter)]
            target = new[name]
            state = optimizer.state.pop(parameter, None)
            if state is not None:
                optimizer.state[target] = {
                    key: cut(value, kept.get(name, {}))
                    if isinstance(value, Tensor) and value.shape == parameter.shape
                    else value
                    for key, value in state.items()
                }
            replaced.append(target)
        group["params"] = replaced
