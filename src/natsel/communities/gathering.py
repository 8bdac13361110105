"""A plain copy of a model that is spread over processes, gathered one parameter at a time.

What is proven of a structure does not depend on values. For that, blocks that are alike are
gathered once: in the copy all of them hold the numbers of the first one.
"""

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


@torch.no_grad()
def structural_copy(model: nn.Module) -> nn.Module:
    """Return a plain copy of a model in which blocks that are alike hold the same numbers.

    Every process that holds a share has to ask for it. None ever holds more than one of the blocks
    that are alike, beside what is there once.

    Args:
        model: spread over processes, gated or not.
    """
    settle(model)
    product, first = acting(model), first_alike(model)
    named = dict(model.named_parameters())
    instead: dict[int, Tensor] = {}
    values: dict[str, Tensor] = {}
    for name, parameter in named.items():
        home = first.get(name, name)
        if home not in values:
            value = product(named[home], whole(named[home]).detach())
            values[home] = value if is_spread(named[home]) else value.clone()
        instead[id(parameter)] = nn.Parameter(values[home], parameter.requires_grad)
    return _plain(model, instead)


def first_alike(model: nn.Module) -> dict[str, str]:
    """Return, by the names of parameters in repeated blocks, the names in the first such block.

    Blocks of a list are alike if their modules have the same classes and settings, and their
    tensors the same shapes and types.

    Example:
        >>> model = nn.ModuleList(nn.Sequential(nn.Linear(2, 2, bias=False)) for _ in range(3))
        >>> first_alike(model)
        {'1.0.weight': '0.0.weight', '2.0.weight': '0.0.weight'}
    """
    found: dict[str, str] = {}
    named = {name for name, _ in model.named_parameters()}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        head = f"{path}." if path else ""
        firsts: dict[object, str] = {}
        for key, block in module.named_children():
            if not any(block.children()):
                continue  # a layer alone is not worth it
            home = firsts.setdefault(_likeness(block), key)
            for name, _ in block.named_parameters() if home != key else ():
                mine, theirs = f"{head}{key}.{name}", f"{head}{home}.{name}"
                if mine in named and theirs in named:
                    # Lists inside of lists come after those around them.
                    found.setdefault(mine, found.get(theirs, theirs))
    return found


def _likeness(block: nn.Module) -> object:
    kinds = tuple((path, type(m).__qualname__, m.extra_repr()) for path, m in block.named_modules())
    tensors = (*block.named_parameters(), *block.named_buffers())
    shapes = tuple((name, t.shape, t.dtype, t.requires_grad) for name, t in tensors)
    return kinds, shapes


def _plain(model: nn.Module, instead: dict[int, Tensor]) -> nn.Module:
    with unwrapped_classes(model), suspended(model, fold=False):
        return copied(model, instead)
