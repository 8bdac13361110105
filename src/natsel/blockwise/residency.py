"""A model that is larger than memory: its modules hold their tensors only while they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from natsel.communities.tensors import all_tensors


class Tensors(Protocol):
    """Where tensors are read from, by the name that they have in the model."""

    def __contains__(self, name: object) -> bool:
        """Say whether there is one of this name."""

    def read(self, name: str) -> Tensor:
        """Return it, in memory of its own."""


@contextmanager
def without_values(dtype: torch.dtype | None = None) -> Iterator[None]:
    """Let modules that are made meanwhile have parameters without values, and their real buffers.

    Args:
        dtype: of floating parameters; as the module makes them if not given.

    Example:
        >>> with without_values(torch.bfloat16):
        ...     norm = nn.BatchNorm1d(2)
        >>> norm.weight.is_meta, norm.weight.dtype, norm.running_var
        (True, torch.bfloat16, tensor([1., 1.]))
    """
    register = nn.Module.register_parameter

    def shape_alone(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta:
            kind = dtype if dtype is not None and param.is_floating_point() else param.dtype
            empty = torch.empty_like(param, device="meta", dtype=kind)
            self._parameters[name] = nn.Parameter(empty, param.requires_grad)

    nn.Module.register_parameter = shape_alone  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class Residency:
    """Gives modules of a model their tensors for a while.

    Args:
        model: whose parameters have no values, see :func:`without_values`.
        tensors: where the values are.

    Example:
        >>> class Ones:
        ...     def __contains__(self, name): return name == "0.weight"
        ...     def read(self, name): return torch.ones(1, 1)
        >>> with without_values():
        ...     model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        >>> with Residency(model, Ones()).resident("0") as layer:
        ...     layer(torch.ones(1, 1)).item(), model[1].weight.is_meta
        (1.0, True)
        >>> model[0].weight.is_meta
        True
    """

    def __init__(self, model: nn.Module, tensors: Tensors) -> None:
        self.model = model
        self._tensors = tensors
        self._stored: dict[int, str] = {}
        for name, tensor in all_tensors(model).items():
            if name in tensors:
                self._stored.setdefault(id(tensor), name)
        self._kept = set(model.state_dict(keep_vars=True))

    @contextmanager
    def resident(self, path: str) -> Iterator[nn.Module]:
        """Hold all tensors of one module, and of what is inside it, while this lasts."""
        module = self.model.get_submodule(path)
        with ExitStack() as stack:
            read: dict[int, Any] = {}
            for inner, each in module.named_modules(prefix=path):
                stack.callback(self._load(inner, each, read))
            yield module

    @contextmanager
    def when_called(self, apart: Iterable[str]) -> Iterator[None]:
        """Let each module hold its own tensors from its first call on, while this lasts.

        Args:
            apart: paths of modules that are not to be called.
        """
        apart = tuple(apart)
        with ExitStack() as stack:
            loaded: set[str] = set()
            read: dict[int, Any] = {}  # what several modules share is there once

            def load(path: str, module: nn.Module) -> None:
                if path not in loaded:
                    loaded.add(path)
                    stack.callback(self._load(path, module, read))

            for path, module in self.model.named_modules():
                if any(path == p or path.startswith(f"{p}.") for p in apart):
                    continue
                hook = module.register_forward_pre_hook(lambda m, _, path=path: load(path, m))
                stack.callback(hook.remove)
            yield

    def _load(self, path: str, module: nn.Module, read: dict[int, Any]) -> Any:
        """Give a module its own tensors; return what takes them away."""
        held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        before = [(own, dict(own)) for own in held]
        for own, was in before:
            for name, tensor in was.items():
                if tensor is None or f"{path}.{name}".lstrip(".") not in self._kept:
                    continue
                if id(tensor) not in self._stored:
                    continue  # a buffer that is as its class computes it
                if id(tensor) not in read:
                    value = self._tensors.read(self._stored[id(tensor)])
                    if tensor.is_floating_point():
                        value = value.to(tensor.dtype)
                    if isinstance(tensor, nn.Parameter):
                        value = nn.Parameter(value, tensor.requires_grad)
                    read[id(tensor)] = value
                own[name] = read[id(tensor)]

        def drop() -> None:
            for own, was in before:
                own.update(was)

        return drop
