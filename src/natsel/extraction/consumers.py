"""The weights that read what was removed, and whether they can absorb it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from natsel.communities import Communities, Community
from natsel.communities.kinds import kind_of
from natsel.communities.surgery.surgery import kept_indices
from natsel.communities.tensors import owner, tensors_of, tied_names
from natsel.fitness.parts import input_axis

WIDEST = 16_384
"""Moments of more columns than these would not fit: their square is 2 GiB."""


@dataclass(frozen=True, eq=False)
class Consumer:
    """A weight that loses inputs.

    Attributes:
        tensor: its name in the model.
        axis: its axis that reads.
        module: path of the module that holds it.
        communities: whose populations it no longer reads.
        kept: places along the axis that remain, in ascending order.
        removed: places that are gone.
        others: what remains of its other axes, ``{axis: places}``.
        constant: whether a constant can be absorbed: exactly, by a bias that is there.
        reason: why it cannot absorb anything; empty if it can.
    """

    tensor: str
    axis: int
    module: str
    communities: tuple[str, ...]
    kept: Tensor
    removed: Tensor
    others: Mapping[int, Tensor]
    constant: bool
    reason: str = ""


def consumers_of(
    model: nn.Module, communities: Communities, survivors: Mapping[str, Tensor]
) -> list[Consumer]:
    """Return every weight that reads a removed population, in the order of the communities.

    Args:
        model: the dense model.
        communities: what the survivors belong to.
        survivors: one boolean tensor ``[size]`` per community.

    Returns:
        The consumers, those that can absorb nothing with the reason.
    """
    tensors = tensors_of(model)
    kept = kept_indices(communities.values(), survivors, tensors)
    shared = set(tied_names(model).values())
    readers: dict[tuple[str, int], list[Community]] = defaultdict(list)
    for name, community in communities.items():
        if name in survivors and not bool(survivors[name].all()):
            for part in community.gates:
                readers[part.tensor, part.axis].append(community)
    found = []
    for (tensor, axis), read in readers.items():
        module, _ = owner(model, tensor)
        remaining = kept[tensor][axis]
        gone = torch.ones(tensors[tensor].shape[axis], dtype=torch.bool)
        gone[remaining] = False
        reason = next(filter(None, (kind_of(c.kind).unabsorbed for c in read)), "")
        if not reason and tensor in shared:
            reason = "its weight is shared with another module"
        found.append(
            Consumer(
                tensor,
                axis,
                tensor.rpartition(".")[0],
                tuple(c.name for c in read),
                remaining,
                gone.nonzero().reshape(-1),
                {other: places for other, places in kept[tensor].items() if other != axis},
                takes_constant(module) and f"{tensor.rpartition('.')[0]}.bias" not in shared,
                reason or unfit(model, tensor, axis, len(gone), len(remaining)),
            )
        )
    return found


def unfit(model: nn.Module, tensor: str, axis: int, size: int, left: int) -> str:
    """Return why a weight cannot absorb removed inputs, or nothing.

    Args:
        model: that holds it.
        tensor: its name.
        axis: along which it reads.
        size: how many inputs it has.
        left: how many of them remain.
    """
    module, attribute = owner(model, tensor)
    unseen = {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    if module in unseen:
        return "nn.MultiheadAttention reads this weight without calling its module"
    if getattr(module, "groups", 1) != 1:
        return "it is a grouped convolution"
    if input_axis(module) is None or attribute != "weight" or axis != reading_axis(module):
        return f"its module is a {type(module).__name__}, not a Linear or a convolution"
    if size + left > WIDEST:
        return f"it reads {size:,} inputs and {left:,} are left, together more than {WIDEST:,}"
    return ""


def reading_axis(module: nn.Module) -> int:
    """Return the axis of a weight along which its module reads."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return 0
    return 1 if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) else 0


def takes_constant(module: nn.Module) -> bool:
    """Tell whether a bias can take a constant of the inputs over, the same at every place."""
    return getattr(module, "bias", None) is not None and not _pads_with_zeros(module)


def _pads_with_zeros(module: nn.Module) -> bool:
    """Tell whether some outputs see fewer inputs than others: a constant would differ there."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return True
    if not isinstance(module, nn.modules.conv._ConvNd) or module.padding_mode != "zeros":
        return False
    if isinstance(module.padding, str):
        return module.padding != "valid"
    return any(p > 0 for p in module.padding)
