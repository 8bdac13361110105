"""The class that a module has while some of its tensors are read times a mass.

The tensor stays where it is: the same parameter under the same name, in the same order, with the
same hooks. Only whoever reads ``module.weight`` gets the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from natsel.common.sharding.local import is_spread, local
from natsel.communities.gates.plain_copies import plain_twin, replicated
from natsel.communities.gates.weights import GatedWeight, inverted

GATED = "_gated_by_natsel"
"""Where a module keeps its gated weights, by the name of the attribute."""

REPARAMETRIZED = ("_orig", "_g", "_v")
"""What torch appends to the name of a weight that it is about to compute from others."""

Classes = dict[tuple[type, tuple[str, ...]], type[nn.Module]]
"""The classes of the gated modules of one model. Another model, or the same one gated anew, gets
others: what is compiled knows by the class whether it has seen a module with its hooks."""


class GatedModule:
    """Mixed into the class of a gated module: what is saved is the weight as it acts."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        module = cast(Any, self)
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc]
        for name, weight in module.__dict__[GATED].items():
            if prefix + name in destination:
                parameter = module._parameters[name]
                destination[prefix + name] = (
                    weight.product(parameter) if keep_vars else weight.acting(parameter)
                )

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any
    ) -> None:
        module = cast(Any, self)
        before = {}
        for name in module.__dict__[GATED]:
            parameter = module._parameters[name]
            given = state_dict.get(prefix + name)
            if isinstance(given, Tensor) and _is_same_memory(given, parameter):
                continue  # the raw weight itself comes back
            before[name] = (_mark(parameter), parameter.detach().clone())
        super()._load_from_state_dict(  # type: ignore[misc]
            state_dict, prefix, local_metadata, *rest
        )
        for name, (mark, raw) in before.items():
            parameter = module._parameters[name]
            if _mark(parameter) == mark:
                continue  # nothing was loaded
            weight = module.__dict__[GATED][name]
            with torch.no_grad():
                value = inverted(parameter.detach(), raw, weight.mass())
                if _is_same_memory(parameter, state_dict.get(prefix + name)):
                    parameter.data = value  # assigned: the memory is the caller's
                else:
                    parameter.copy_(value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)  # type: ignore[misc]
        with torch.no_grad():
            for weight in self.__dict__[GATED].values():
                for gate in weight.gates:
                    gate.mass = fn(gate.mass)
        return result

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__[GATED]:
            refuse_change(cast(nn.Module, self), name)
        super().__delattr__(name)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter, unless a gated one is about to be computed from it."""
        module = cast(Any, self)
        for attribute, weight in module.__dict__[GATED].items():
            if name in [attribute + ending for ending in REPARAMETRIZED]:
                weight.put_back(module, attribute)
                refuse_change(module, attribute)
        super().register_parameter(name, param)  # type: ignore[misc]
        if name in module.__dict__[GATED] and param is not None:
            module.__dict__[GATED][name].parameter = param

    def __copy__(self) -> Any:
        twin = type(self).__new__(type(self))
        twin.__dict__ = self.__dict__.copy()
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the plain module that computes the same."""
        module = cast(nn.Module, self)
        # Protocol 1 names the class apart: later ones insist that it is the class of this object.
        return plain_twin(module, original_class(type(module)), GATED).__reduce_ex__(1)


def refuse_change(module: nn.Module, name: str) -> None:
    """Refuse to have a gated weight computed from something else.

    Raises:
        ValueError: always, with the remedy.
    """
    kind = type(module).__name__
    raise ValueError(
        f"{name} of {kind} is not allowed to be replaced or reparametrized: it is under "
        "evolution; do so before natsel.discover, or after evolution.close()"
    )


def put(module: nn.Module, weights: dict[str, GatedWeight], classes: Classes) -> None:
    """Give a module a class whose properties read these weights times their masses.

    Args:
        module: not gated.
        weights: by the name of the attribute; with none, only what is pickled changes.
        classes: those made so far; what is new is added.
    """
    key = (type(module), tuple(weights))
    kind = classes.get(key) or _gated_class(*key)
    classes[key] = kind
    module.__dict__[GATED] = weights  # first, so that whatever happens it can be taken off
    module.__class__ = kind


def take_off(module: nn.Module) -> None:
    """Give a module its own class back; the weights stay as they are."""
    module.__class__ = original_class(type(module))
    del module.__dict__[GATED]
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def weights_of(module: nn.Module) -> dict[str, GatedWeight] | None:
    """Return the gated weights of a module; None if it is a plain one."""
    return module.__dict__.get(GATED)


def original_class(kind: type) -> type[nn.Module]:
    """Return the class that a gated one was made of.

    What was put on top of it since, as ``torch.nn.utils.parametrize`` and FSDP do, stays.
    """
    if not issubclass(kind, GatedModule):
        return cast(type[nn.Module], kind)
    if kind.__bases__[0] is GatedModule:
        return cast(type[nn.Module], kind.__bases__[1])
    members = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    return type(kind.__name__, tuple(map(original_class, kind.__bases__)), members)


def _gated_class(kind: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    members: dict[str, Any] = {name: _reading(name) for name in names}
    members |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    members["__doc__"] = kind.__doc__
    if not hasattr(kind, "__deepcopy__"):
        members["__deepcopy__"] = replicated
    if issubclass(kind, nn.RNNBase) and names:
        members |= _recurrent()
    return cast(type[nn.Module], type(kind.__name__, (GatedModule, kind), members))


def _reading(name: str) -> property:
    def read(module: Any) -> Tensor:
        weight = module._parameters.get(name)
        if weight is None:
            weight = _elsewhere(module, name)
        elif type(weight) is not nn.Parameter and is_spread(weight):
            # fully_shard asks for what it spreads. What forward reads is put in its place, whole.
            return cast(Tensor, weight)
        return cast(Tensor, module._gated_by_natsel[name].product(weight))

    def write(module: Any, value: Any) -> None:
        # Only a replica of torch.nn.DataParallel, which has no parameters, comes here.
        if not getattr(module, "_is_replica", False):
            refuse_change(module, name)
        module.__dict__[name] = value

    return property(read, write)


def _elsewhere(module: nn.Module, name: str) -> Tensor:
    if name not in module.__dict__:
        raise AttributeError(f"{type(module).__name__!r} object has no attribute {name!r}")
    return cast(Tensor, module.__dict__[name])


def _recurrent() -> dict[str, Any]:
    """Return what recurrent layers need besides: they keep a list of their weights.

    It is made anew at each look. The list of the instance keeps the parameters themselves.
    """

    def present(module: Any) -> list[Any]:
        return [getattr(module, name, None) for name in module._flat_weights_names]

    def ignore(module: Any, *_: Any) -> None:
        pass

    listing: Callable[[Any], list[Any]] = present
    return {"_flat_weights": property(listing, ignore), "_update_flat_weights": ignore}


def _mark(parameter: Tensor) -> tuple[int, int, int]:
    # What is written to a DTensor counts as its own version, not as that of its share.
    return id(parameter), local(parameter).data_ptr(), parameter._version


def _is_same_memory(a: Tensor, b: object) -> bool:
    return isinstance(b, Tensor) and local(a).data_ptr() == local(b).data_ptr() != 0


def touched(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return those that have a class of their own because of gates."""
    return [module for module in modules if GATED in module.__dict__]
