"""See what enters modules while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn

Key = TypeVar("Key")


@contextmanager
def watching(
    modules: Mapping[Key, nn.Module], look: Callable[[Key, tuple[Any, ...], dict[str, Any]], None]
) -> Iterator[None]:
    """Show what modules are called with, while this context lasts.

    Args:
        modules: by a key of the caller's.
        look: is called with the key, the positional and the named arguments of each call.

    Example:
        >>> import torch
        >>> seen = []
        >>> layer = nn.Linear(2, 3)
        >>> with watching({"layer": layer}, lambda key, args, _: seen.append((key, len(args[0])))):
        ...     _ = layer(torch.zeros(5, 2))
        >>> seen
        [('layer', 5)]
    """

    def hook_for(key: Key) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            look(key, args, named)

        return hook

    handles = [
        module.register_forward_pre_hook(hook_for(key), with_kwargs=True)
        for key, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def entering(args: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    """Return the first thing that a module is called with: what a layer reads."""
    first: Tensor = args[0] if args else next(iter(named.values()))
    return first


def as_rows(x: Tensor, axis: int) -> Tensor:
    """Return a tensor as rows ``[rows, places]`` of what lies along one axis.

    Example:
        >>> import torch
        >>> as_rows(torch.zeros(2, 3, 4, 4), -3).shape
        torch.Size([32, 3])
    """
    return x.movedim(axis, -1).reshape(-1, x.shape[axis])
