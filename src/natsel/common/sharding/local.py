"""The part of a tensor that is in this process, where it begins, and the whole of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from natsel.common.sharding.reducing import summed


def is_spread(tensor: Tensor) -> bool:
    """Tell whether a tensor is a ``DTensor``: one of which a process may hold a share.

    Example:
        >>> is_spread(torch.ones(2))
        False
    """
    module = sys.modules.get("torch.distributed.tensor")
    # A parameter says by its data what it is.
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, without autograd; all of a plain one."""
    found: Any = tensor
    part: Tensor = found._local_tensor if is_spread(tensor) else tensor.detach()
    return part


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor, gathered from every process that holds a share of it.

    All of these must ask for it together.

    Example:
        >>> whole(torch.ones(2))
        tensor([1., 1.])
    """
    if not is_spread(tensor):
        return tensor
    spread: Any = tensor.detach()
    gathered: Tensor = spread.full_tensor()
    return gathered


def spread_as(tensor: Tensor, like: Tensor) -> Tensor:
    """Spread a tensor that every process has the whole of, as another one is; nothing is sent.

    Args:
        tensor: the same in every process.
        like: plain, which leaves the tensor as it is, or spread.
    """
    if not is_spread(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    model: Any = like
    spread: Tensor = distribute_tensor(
        tensor, model.device_mesh, model.placements, src_data_rank=None
    )
    return spread


def scaled(tensor: Tensor, mass: Tensor) -> Tensor:
    """Return a tensor times masses that every process has the whole of.

    Args:
        tensor: plain or spread.
        mass: to be broadcast against all of the tensor.
    """
    if not is_spread(tensor):
        return tensor * mass
    spread: Any = tensor
    return with_local(tensor, spread.to_local() * share(mass, Shard.of(tensor)))


def with_local(like: Tensor, part: Tensor) -> Tensor:
    """Return a tensor that is spread as another one is, of which this process holds a given part.

    Args:
        like: plain, of which the part is all, or spread.
        part: of this process.
    """
    if not is_spread(like):
        return part
    from torch.distributed.tensor import DTensor

    model: Any = like
    spread: Tensor = DTensor.from_local(
        part,
        model.device_mesh,
        model.placements,
        run_check=False,
        shape=model.shape,
        stride=model.stride(),
    )
    return spread


@dataclass(frozen=True)
class Shard:
    """Where the share of a tensor begins that this process holds.

    Attributes:
        shape: of the whole tensor.
        local: of the share.
        offset: of its first element, for each dimension.
        group: the processes that hold the other shares; None where this one has all of it.
    """

    shape: tuple[int, ...]
    local: tuple[int, ...]
    offset: tuple[int, ...]
    group: Any

    @classmethod
    def of(cls, tensor: Tensor) -> Shard | None:
        """Return the share of a tensor; None of a plain one."""
        if not is_spread(tensor):
            return None
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        spread: Any = tensor
        mesh, placements = spread.device_mesh, spread.placements
        found, offset = compute_local_shape_and_global_offset(spread.shape, mesh, placements)
        split = [dim for dim, placement in enumerate(placements) if placement.is_shard()]
        group = mesh.get_group(split[0]) if split else None
        return cls(tuple(spread.shape), tuple(found), tuple(offset), group)

    def places(self, axis: int) -> slice:
        """Return which places along an axis this process holds."""
        first = min(self.offset[axis], self.shape[axis])
        return slice(first, first + self.local[axis])

    def along(self, axis: int, values: Tensor) -> Tensor:
        """Return numbers for the local places of an axis among zeros for all the others.

        Args:
            axis: of the tensor.
            values: ``[local[axis]]``; what other processes have of the same places is added later.
        """
        if self.local[axis] == self.shape[axis]:
            return values
        result = values.new_zeros(self.shape[axis])
        result[self.places(axis)] = values
        return result

    def total(self, axis: int, values: Tensor) -> Tensor:
        """Return the sums over all processes of numbers for the local places of an axis."""
        return summed(self.along(axis, values), self.group)


def share(mass: Tensor, shard: Shard | None) -> Tensor:
    """Return the part of masses that multiplies the local share.

    Args:
        mass: to be broadcast against the whole tensor.
        shard: the share of the tensor; None for all of it.

    Example:
        >>> share(torch.arange(6.0)[:, None], Shard((6, 4), (2, 4), (3, 0), None)).flatten()
        tensor([3., 4.])
    """
    if shard is None:
        return mass
    for axis, size in enumerate(mass.shape):
        if size > 1:
            places = shard.places(axis)
            mass = mass.narrow(axis, places.start, places.stop - places.start)
    return mass


def partial_dot(one: Tensor, other: Tensor) -> Tensor:
    """Return what this process contributes to the inner product of two tensors spread alike."""
    return torch.sum(local(one) * local(other))
