"""Which modules of a model follow one another, each reading what the one before it returned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from natsel.common.calls import Inputs, call, without_cache
from natsel.common.modes import evaluating


@dataclass(frozen=True)
class Chain:
    """Blocks that follow one another.

    Attributes:
        paths: of the blocks, in the order in which they run.
        arity: how many values each returns, the hidden state first; 0 where it is that alone.
    """

    paths: tuple[str, ...]
    arity: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, eq=False)
class _Seen:
    path: str
    entered: Tensor | None
    others: tuple[Tensor, ...]
    left: Any


def chains_of(model: nn.Module, inputs: Inputs) -> tuple[Chain, ...]:
    """Return the chains of a model, in the order in which they run.

    The blocks of a chain are the children of one container, each called once; the first argument
    of each is the very tensor that the one before it returned (alone, or first of a tuple), and
    nothing else that it is given comes out of a block of the chain. Containers inside a block do
    not count: a chain is as far outside as one is found.

    Args:
        model: is run once, in evaluation mode, without gradients and without a key/value cache.
        inputs: what it runs on.

    Returns:
        The chains, of two blocks at least.

    Example:
        >>> block = lambda: nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> model = nn.Sequential(block(), block())
        >>> chains_of(model, (torch.zeros(1, 2),))
        (Chain(paths=('0', '1'), arity=(0, 0)),)
    """
    families = {
        path: [f"{path}.{name}".lstrip(".") for name, _ in module.named_children()]
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1
    }
    if not families:
        return ()
    watched = {path for children in families.values() for path in children}
    calls = _calls(model, inputs, watched)
    order = {path: place for place, path in enumerate(dict.fromkeys(s.path for s in calls))}
    found: list[Chain] = []
    for path, children in sorted(families.items(), key=lambda item: item[0].count(".")):
        inside = any(path == p or path.startswith(f"{p}.") for c in found for p in c.paths)
        if inside:
            continue
        seen = [s for s in calls if s.path in set(children)]
        if len(seen) == len(children) and (chain := _linked(seen, children)) is not None:
            found.append(chain)
    return tuple(sorted(found, key=lambda c: order[c.paths[0]]))


def _calls(model: nn.Module, inputs: Inputs, paths: Iterable[str]) -> list[_Seen]:
    """Run a model once; return what its modules were called with and what they returned."""
    begun: dict[str, tuple[Tensor | None, tuple[Tensor, ...]]] = {}
    calls: list[_Seen] = []

    def before(path: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            values = (*args, *named.values())
            entered = values[0] if values and isinstance(values[0], Tensor) else None
            others = [x for x in tree_leaves(values[1:]) if isinstance(x, Tensor)]
            begun[path] = (entered, tuple(others))

        return hook

    def after(path: str) -> Any:
        def hook(_: nn.Module, __: Any, left: Any) -> None:
            calls.append(_Seen(path, *begun[path], left))

        return hook

    with ExitStack() as stack:
        for path in paths:
            module = model.get_submodule(path)
            handle = module.register_forward_pre_hook(before(path), with_kwargs=True)
            stack.callback(handle.remove)
            stack.callback(module.register_forward_hook(after(path)).remove)
        with evaluating(model), without_cache(model), torch.no_grad():
            call(model, inputs)
    return calls


def _linked(seen: Sequence[_Seen], children: Sequence[str]) -> Chain | None:
    """Return the chain that some calls are; None if they are none."""
    if sorted(s.path for s in seen) != sorted(children):
        return None
    if any(_hidden(s.left) is None or s.entered is None for s in seen):
        return None
    made: set[int] = set()
    for former, latter in pairwise(seen):
        made |= {id(x) for x in _tensors(former.left)}
        if latter.entered is not _hidden(former.left) or made & {id(x) for x in latter.others}:
            return None
    arity = tuple(0 if isinstance(s.left, Tensor) else len(s.left) for s in seen)
    return Chain(tuple(s.path for s in seen), arity)


def _tensors(value: Any) -> Iterator[Tensor]:
    return (x for x in tree_leaves(value) if isinstance(x, Tensor))


def _hidden(left: Any) -> Tensor | None:
    """Return the hidden state in what a block returned."""
    if isinstance(left, Tensor):
        return left
    if type(left) in (tuple, list) and left and isinstance(left[0], Tensor):
        first: Tensor = left[0]
        return first
    return None
