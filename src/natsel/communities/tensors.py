"""Names of the parameters and buffers of a model, and where each is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

TABLES = ("_parameters", "_buffers")


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by name, each shared tensor once."""
    found: dict[str, Tensor] = {}
    modules = _modules(model, seen=set())
    for table in TABLES:
        seen: set[int] = set()
        for name, tensor in _held(modules, table):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[name] = tensor
    return found


def all_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers under every name they have, shared ones too."""
    modules = _modules(model, seen=None)
    return {name: tensor for table in TABLES for name, tensor in _held(modules, table)}


def _modules(model: nn.Module, *, seen: set[int] | None) -> list[tuple[str, nn.Module]]:
    """Return modules with what the names of what they hold begin with, as ``named_modules`` does.

    With the ids of those that were seen each comes once. Trials ask thousands of times.
    """
    found: list[tuple[str, nn.Module]] = []
    stack = [("", model)]
    while stack:
        prefix, module = stack.pop()
        if seen is not None:
            if id(module) in seen:
                continue
            seen.add(id(module))
        found.append((prefix, module))
        stack += [
            (f"{prefix}{name}.", child)
            for name, child in reversed(module._modules.items())
            if child is not None
        ]
    return found


def _held(modules: Iterable[tuple[str, nn.Module]], table: str) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in modules:
        for name, tensor in getattr(module, table).items():
            if tensor is not None:
                yield prefix + name, tensor


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Return, for every name of a tensor, the first name that it has.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        >>> model[1].weight = model[0].weight
        >>> canonical_names(model)
        {'0.weight': '0.weight', '1.weight': '0.weight'}
    """
    first: dict[int, str] = {}
    return {name: first.setdefault(id(t), name) for name, t in all_tensors(model).items()}


def tied_names(model: nn.Module) -> dict[str, str]:
    """Return the further names of tensors that have several, each with the first one."""
    return {name: first for name, first in canonical_names(model).items() if name != first}


def owner(model: nn.Module, tensor: str) -> tuple[nn.Module, str]:
    """Return the module that holds a tensor, and the tensor's name there."""
    path, _, name = tensor.rpartition(".")
    return model.get_submodule(path), name


def common_path(paths: Iterable[str]) -> str:
    """Return the longest path of modules that some paths begin with.

    Example:
        >>> common_path(["layers.0.mlp.up", "layers.0.mlp.down"]), common_path(["a.b", "c"])
        ('layers.0.mlp', '')
    """
    parts = []
    for each in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(each)) > 1:
            break
        parts.append(each[0])
    return ".".join(parts)
