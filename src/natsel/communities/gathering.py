"""A plain copy of a model that is spread over processes, gathered one parameter at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from natsel.common.sharding.local import is_spread, whole
from natsel.common.sharding.wrapping import empty_like, settle, unwrapped_classes
from natsel.communities.copies import copied
from natsel.communities.gates.gates import acting, suspended


def shapes_alone(model: nn.Module) -> nn.Module:
    """Return a copy of a model without gates and shards, whose parameters have no data.

    Buffers have theirs.

    Args:
        model: spread over processes, gated or not.
    """
    settle(model)
    return _plain(model, {id(p): empty_like(p) for p in model.parameters()})


@torch.no_grad()
def gathered_copy(model: nn.Module, *, keep: bool = True) -> nn.Module:
    """Return a plain copy of a model that computes what it does, masses multiplied in.

    Every process that holds a share has to ask for it.

    Args:
        model: spread over processes, gated or not.
        keep: whether this process keeps what is gathered; else its copy has no data, and it holds
            one whole parameter at a time.
    """
    settle(model)
    product = acting(model)
    instead: dict[int, Tensor] = {}
    for parameter in model.parameters():
        value = whole(parameter)
        if keep:
            value = product(parameter, value.detach())
            value = value if is_spread(parameter) else value.clone()
            instead[id(parameter)] = nn.Parameter(value, parameter.requires_grad)
        else:
            instead[id(parameter)] = empty_like(parameter)
    return _plain(model, instead)


def _plain(model: nn.Module, instead: dict[int, Tensor]) -> nn.Module:
    with unwrapped_classes(model), suspended(model, fold=False):
        return copied(model, instead)
