"""Parts of a model that can be run by themselves, on what entered them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from natsel.common.calls import Inputs, call
from natsel.common.hooks import watching
from natsel.communities.community import Community
from natsel.communities.programs.program import Program
from natsel.communities.tensors import all_tensors

MAX_LEVELS = 3
"""How many modules around the tensors of a community are tried before the whole model."""

PLAIN = (Tensor, int, float, bool, str, type(None), torch.dtype, torch.device)


@dataclass(frozen=True, eq=False)
class Part:
    """A module of a model with what enters it.

    Attributes:
        path: of the module; empty for the whole model.
        module: the module.
        args: what it is called with.
        kwargs: the same, by name.
    """

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def local(self, community: Community) -> Community:
        """Return a community with the names that its tensors and numbers have in this part."""
        return self._renamed(community, lambda name: name[len(self._head) :])

    def outer(self, community: Community) -> Community:
        """Return a community of this part with the names that it has in the model."""
        return self._renamed(community, lambda name: f"{self._head}{name}".rstrip("."))

    def holds(self, path: str) -> bool:
        """Tell whether a module of the model is this part or in it."""
        return f"{path}.".startswith(self._head)

    @property
    def _head(self) -> str:
        return f"{self.path}." if self.path else ""

    def _renamed(self, community: Community, rename: Callable[[str], str]) -> Community:
        if not self.path:
            return community
        slices = tuple(replace(s, tensor=rename(s.tensor)) for s in community.slices)
        bound = tuple(replace(b, module=rename(b.module)) for b in community.rebindings)
        counted = tuple(replace(c, module=rename(c.module)) for c in community.counted)
        found = replace(community, slices=slices, rebindings=bound, counted=counted)
        return replace(found, standards=tuple(rename(path) for path in community.standards))


class Parts:
    """Finds the parts of a model in which its communities are proven.

    Args:
        model: in evaluation mode; it is run once where something is in a part of it.
        communities: of the model.
        inputs: what the model runs on.
    """

    def __init__(self, model: nn.Module, communities: Iterable[Community], inputs: Inputs) -> None:
        self._model = model
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
        self.whole = Part("", model, args, kwargs)
        self._names: dict[str, list[str]] = {}
        first: dict[int, str] = {}
        for name, tensor in all_tensors(model).items():
            self._names.setdefault(first.setdefault(id(tensor), name), []).append(name)
        self._around = {c.name: list(self._levels(c)) for c in communities}
        paths = {path for around in self._around.values() for path in around}
        is_whole = isinstance(model, Program) or not paths
        self._parts = {} if is_whole else self._captured(paths, inputs)

    def around(self, community: Community) -> Iterator[Part]:
        """Yield the parts that hold a community, the smallest first, the whole model last."""
        found = [self._parts[p] for p in self._around[community.name] if p in self._parts]
        yield from found[:MAX_LEVELS]
        yield self.whole

    def _levels(self, community: Community) -> Iterator[str]:
        """Yield the paths of the modules around all tensors of a community, but for the model."""
        names = [name for s in community.slices for name in self._names.get(s.tensor, [s.tensor])]
        owners = [name.split(".")[:-1] for name in names]
        common = []
        for level in zip(*owners, strict=False):
            if len(set(level)) > 1:
                break
            common.append(level[0])
        yield from (".".join(common[:n]) for n in range(len(common), 0, -1))

    def _captured(self, paths: set[str], inputs: Inputs) -> dict[str, Part]:
        """Run the model once and note what enters modules that are called exactly once."""
        seen: dict[str, list[Part | None]] = {path: [] for path in paths}
        modules = {path: m for path, m in self._model.named_modules() if path in paths}

        def note(path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            leaves = tree_leaves((args, kwargs))
            plain = all(isinstance(leaf, PLAIN) for leaf in leaves)
            first = plain and not seen[path] and any(isinstance(x, Tensor) for x in leaves)
            found = Part(path, modules[path], *_copied((args, kwargs))) if first else None
            seen[path].append(found)

        with torch.no_grad(), watching(modules, note):
            call(self._model, inputs)
        return {path: calls[0] for path, calls in seen.items() if len(calls) == 1 and calls[0]}


def _copied(values: Any) -> Any:
    """Copy containers and tensors: what a module does to its inputs is not seen a second time."""
    return tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, values)
