"""A weight times its masses, and back."""

from __future__ import annotations

import copy
import weakref
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from natsel.common.sharding.local import Shard, is_spread, local, scaled, share, with_local

T = TypeVar("T", bound=Tensor)


class Gate:
    """Masses that scale a consumer's weight along one axis: W[:, j] * mass[j].

    The optimizer sees the ungated weight V and its gradient m dL/dW, so it cannot undo the mass.
    The masses move with the modules that read them. They are no buffer: whoever compares the
    buffers of two models, as moving averages do, finds those of the plain one.

    Attributes:
        mass: to be broadcast against the weight.
        whole: whether it is the one mass of a whole tensor, as those of branches are.
    """

    def __init__(self, mass: Tensor, *, whole: bool = False) -> None:
        self.mass = mass
        self.whole = whole


class GatedWeight:
    """One tensor that is read times its masses, in however many modules it is.

    Attributes:
        parameter: the tensor.
        gates: one for each axis that reads populations.
        pinned: what to read for now instead of a new product, if anything.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self.gates: list[Gate] = []
        self.pinned: list[Tensor] = []
        self.position = 0
        self._lent: dict[type, weakref.ref[Tensor]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> GatedWeight:
        twin = GatedWeight(copy.deepcopy(self.parameter, memo))
        memo[id(self)] = twin
        twin.gates = copy.deepcopy(self.gates, memo)
        twin.position = self.position
        return twin

    def product(self, weight: Tensor) -> Tensor:
        """Return a weight times the masses."""
        if self.pinned:
            return self.pinned[-1]
        for gate in self.gates:
            mass = gate.mass
            if mass.device != weight.device:
                mass = mass.to(weight.device)
            weight = scaled(weight, mass)
        return weight

    def mass(self) -> Tensor:
        """Return the product of all masses."""
        result = self.gates[0].mass
        for gate in self.gates[1:]:
            result = result * gate.mass
        return result

    @torch.no_grad()
    def acting(self, weight: Tensor) -> Tensor:
        """Return the weight as it acts, without gradient: the same tensor for all its places."""
        return self._once(self.product(weight.detach()), Tensor)

    @torch.no_grad()
    def folded(self, weight: nn.Parameter) -> nn.Parameter:
        """Return the weight as it acts, as a parameter: the same one for all its places."""
        value = self.product(weight.detach())
        return self._once(nn.Parameter(value, weight.requires_grad), nn.Parameter)

    def put_back(self, module: nn.Module, name: str) -> None:
        """Put the parameter where it was among those of a module, if somebody took it away."""
        if name not in module._parameters:
            others = list(module._parameters.items())
            others.insert(self.position, (name, self.parameter))
            module._parameters.clear()
            module._parameters.update(others)

    def _once(self, value: T, kind: type[T]) -> T:
        """Return what was returned before, if that is still there and the same."""
        lent = self._lent.get(kind)
        before = None if lent is None else lent()
        if (
            before is not None
            and before.shape == value.shape
            and torch.equal(local(before), local(value))
        ):
            return cast(T, before)
        self._lent[kind] = weakref.ref(value)
        return value


def inverted(value: Tensor, raw: Tensor, mass: Tensor) -> Tensor:
    """Return the weight that acts as a value does.

    Where the present weight does so already, it stays, bit for bit. Where the mass is 0, whatever
    there is acts as nothing: a value other than 0 is taken as it is.

    Args:
        value: as it shall act.
        raw: the present weight.
        mass: what it is multiplied by.

    Example:
        >>> mass, raw = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([1.0, 1.0, 3.0, 3.0])
        >>> inverted(torch.tensor([0.5, 2.0, 0.0, 7.0]), raw, mass)
        tensor([1., 4., 3., 7.])
    """
    mass = mass.to(value.device)
    if is_spread(value):
        mine = share(mass, Shard.of(value))
        return with_local(value, inverted(local(value), local(raw), mine))
    raw = raw.to(device=value.device, dtype=value.dtype)
    other = torch.where(mass != 0, value / mass, value)
    return torch.where(value == raw * mass, raw, other).to(value.dtype)
