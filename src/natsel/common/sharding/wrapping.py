"""Models under ``fully_shard`` (FSDP2): how they are spread, and what they are without it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.common.sharding.local import Shard, is_spread
from natsel.common.sharding.reducing import ALL


@dataclass(frozen=True)
class Spread:
    """How the parameters of a model are spread.

    Attributes:
        group: the processes that hold the shares of a parameter.
        mesh: of devices.
        replicas: the processes that hold the same share; None if there is but one.
        modules: that ``fully_shard`` was called on.
    """

    group: Any
    mesh: Any
    replicas: Any = None
    modules: tuple[Any, ...] = ()

    def settle(self) -> None:
        """Let every parameter be its share, see :func:`settle`."""
        for module in self.modules:
            module.reshard()

    def everybody(self) -> Any:
        """Return all processes that hold shares of the model, replicas among them.

        Raises:
            ValueError: if they are some of those of ``torch.distributed``, and have replicas.
        """
        if self.replicas is None:
            return self.group
        if self.mesh.size() != dist.get_world_size():
            refuse("group", None, "the process group of all that hold this model")
        return ALL


def fsdp_modules(model: nn.Module) -> dict[str, Any]:
    """Return the modules that ``fully_shard`` was called on, by path."""
    module = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(module, "FSDPModule", None)
    if kind is None:
        return {}
    return {path: m for path, m in model.named_modules() if isinstance(m, kind)}


def settle(model: nn.Module) -> None:
    """Let every parameter be its share: after a pass without backward some are still whole."""
    for module in fsdp_modules(model).values():
        module.reshard()


def gathered_parameters(spread: Spread) -> dict[int, nn.Parameter]:
    """Return what stands for each parameter while it is whole, by the ``id`` of its share.

    It is the same object each time: forward reads it, and its gradient is that of this process.

    Args:
        spread: of a model under ``fully_shard``; every process that holds shares has to ask.
    """
    found: dict[int, nn.Parameter] = {}
    for module in spread.modules:
        for group in module._get_fsdp_state()._fsdp_param_groups:
            if not all(hasattr(p, "_unsharded_param") for p in group.fsdp_params):
                module.unshard()
                module.reshard()
            found |= {id(p.sharded_param): p.unsharded_param for p in group.fsdp_params}
    return found


def spread_of(model: nn.Module) -> Spread | None:
    """Return how a model is spread over processes; None if it is not.

    Raises:
        ValueError: if natsel cannot follow how it is spread, in one line with the remedy.
    """
    for module in model.modules():
        if any(k.__name__ == "FullyShardedDataParallel" for k in type(module).__mro__):
            _refuse(
                "it is spread over processes by FullyShardedDataParallel",
                "use torch.distributed.fsdp.fully_shard, or DistributedDataParallel",
            )
    wrapped = fsdp_modules(model)
    if not wrapped and not any(is_spread(p) for p in model.parameters()):
        return None
    if not dist.is_initialized():
        _refuse(
            "it is spread over processes, and no process group is initialised",
            "start it with torchrun and call torch.distributed.init_process_group first",
        )
    settle(model)
    spread = [(name, p) for name, p in model.named_parameters() if is_spread(p)]
    managed = _managed(wrapped)
    for name, parameter in spread:
        path, _, attribute = name.rpartition(".")
        if (id(model.get_submodule(path)), attribute) not in managed:
            _not_followed(name, parameter)
    found: Spread | None = None
    for name, parameter in spread:
        mine = _spread_of(name, parameter)
        if found is not None and mine.mesh != found.mesh:
            _refuse(f"{name} is on another mesh than the rest", "shard all of it on one mesh")
        found = mine
    return None if found is None else replace(found, modules=tuple(wrapped.values()))


def _spread_of(name: str, parameter: Any) -> Spread:
    mesh, placements = parameter.device_mesh, parameter.placements
    kinds = [type(p).__name__ for p in placements]
    if kinds not in (["Shard"], ["Replicate", "Shard"]):
        _not_followed(name, parameter)
    shard = Shard.of(parameter)
    assert shard is not None
    replicas = mesh.get_group(0) if len(kinds) == 2 else None
    return Spread(shard.group, mesh, replicas)


def _managed(wrapped: dict[str, Any]) -> set[tuple[int, str]]:
    """Return which parameters ``fully_shard`` spreads, by module and name there."""
    found = set()
    for module in wrapped.values():
        for group in module._get_fsdp_state()._fsdp_param_groups:
            for info in (p._module_info for p in group.fsdp_params):
                found.add((id(info.module), info.param_name))
                shared = zip(info.shared_modules, info.shared_param_names, strict=True)
                found |= {(id(m), name) for m, name in shared}
    return found


def _not_followed(name: str, parameter: Any) -> NoReturn:
    names = parameter.device_mesh.mesh_dim_names or ("unnamed",)
    where = f"mesh ({', '.join(names)}), placements {tuple(map(str, parameter.placements))}"
    _refuse(
        f"{name} is a DTensor spread by tensor parallelism ({where})",
        "prune first, then shard the small model; while it evolves, use fully_shard on a mesh "
        "of its own, or DistributedDataParallel",
    )


def _refuse(what: str, remedy: str) -> NoReturn:
    raise ValueError(f"this model is not allowed: {what} (remedy: {remedy})")


@contextmanager
def unwrapped_classes(model: nn.Module) -> Iterator[None]:
    """Let modules have neither the class nor the hooks of ``fully_shard`` for a while.

    So they can be copied. Their parameters stay spread: whoever copies puts others in their place.
    """
    taken = []
    for module in fsdp_modules(model).values():
        hooks = []
        for held in (module._forward_pre_hooks, module._forward_hooks):
            hooks += [(held, key, held.copy()) for key in _keys_of_state(module, held)]
        kind = type(module)
        taken.append((module, kind, hooks))
        for held, key, _ in hooks:
            held.pop(key, None)
        module.__class__ = without_fsdp(kind)
    saving = []
    kept = []
    for module in model.modules():
        own = vars(module)
        kept.append((own, {key: own.pop(key) for key in [*own] if key.startswith(_MARKS)}))
        for held in (module._state_dict_pre_hooks, module._load_state_dict_pre_hooks):
            keys = [key for key, hook in held.items() if _is_of_fsdp(hook)]
            saving += [(held, held.copy())] if keys else []
            for key in keys:
                del held[key]
    try:
        yield
    finally:
        for own, marks in kept:
            own.update(marks)
        for module, kind, hooks in taken:
            module.__class__ = kind
            for held, _, before in hooks:
                held.clear()
                held.update(before)
        for held, before in saving:
            held.clear()
            held.update(before)


_MARKS = ("__composable_api_", "_is_fsdp_managed_module")
"""Where torch keeps, in a module, that ``fully_shard`` was called on it."""


def _keys_of_state(module: Any, hooks: Any) -> list[Any]:
    return [key for key, hook in hooks.items() if _is_of_fsdp(hook)]


def _is_of_fsdp(hook: Any) -> bool:
    inner = getattr(hook, "hook", hook)  # of a hook that is given its module
    home = getattr(getattr(inner, "__wrapped__", inner), "__module__", "") or ""
    return home.startswith("torch.distributed.fsdp._fully_shard")


def without_fsdp(kind: type) -> type:
    """Return the class that a module had before ``fully_shard``, with what was put on it since."""
    from torch.distributed.fsdp import FSDPModule

    if not issubclass(kind, FSDPModule):
        return kind
    bases = kind.__bases__
    if bases[0] is FSDPModule:
        return bases[1]
    members = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    members.pop("__deepcopy__", None)
    return type(kind.__name__, tuple(without_fsdp(base) for base in bases), members)


def shard_like(small: nn.Module, model: nn.Module, names: dict[str, str]) -> None:
    """Call ``fully_shard`` on the modules of a small model as it was called on the dense one.

    Args:
        small: with plain parameters, on any device.
        model: the dense model.
        names: from the name of a parameter of the small model to its name in the dense one.
    """
    from torch.distributed.fsdp import fully_shard

    wrapped = fsdp_modules(model)
    paths = {id(module): path for path, module in wrapped.items()}
    mine = dict(small.named_modules())
    old = dict(model.named_parameters())
    placements = {id(p): _placement(old[names[n]]) for n, p in small.named_parameters()}
    plain = {p for n, p in small.named_parameters() if not is_spread(old[names[n]])}
    seen: set[int] = set()
    # From the inside to the outside, as it has to be called.
    for path in sorted(wrapped, key=lambda p: -p.count(".") - (p != "")):
        state: Any = wrapped[path]._get_fsdp_state()
        if id(state) in seen:
            continue
        seen.add(id(state))
        together = [mine[paths[id(m)]] for m in state._modules if paths.get(id(m)) in mine]
        groups = state._fsdp_param_groups
        if not together:
            continue
        mesh = groups[0].mesh_info.mesh if groups else _any_mesh(wrapped)
        reshard = None if state._auto_reshard_after_forward else _reshards(groups)
        options: dict[str, Any] = {"offload_policy": groups[0].offload_policy} if groups else {}
        fully_shard(
            together if len(together) > 1 else together[0],
            mesh=mesh,
            reshard_after_forward=reshard,
            shard_placement_fn=lambda p: placements.get(id(p)),
            mp_policy=state._mp_policy,
            ignored_params=plain or None,
            **options,
        )


def _reshards(groups: Any) -> bool | int:
    if not groups or groups[0].post_forward_mesh_info is None:
        return False
    after = groups[0].post_forward_mesh_info
    if after is groups[0].mesh_info:
        return True
    return int(after.shard_mesh_size)


def _any_mesh(wrapped: dict[str, Any]) -> Any:
    for module in wrapped.values():
        for group in module._get_fsdp_state()._fsdp_param_groups:
            return group.mesh_info.mesh
    raise AssertionError("no parameter is spread")


def _placement(parameter: Tensor) -> Any:
    if not is_spread(parameter):
        return None
    spread: Any = parameter
    found = spread.placements[-1]
    return found if found.dim else None


def empty_like(parameter: Tensor) -> nn.Parameter:
    """Return a plain parameter without data of the whole shape."""
    data = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
    return nn.Parameter(data, requires_grad=parameter.requires_grad)
