"""What makes two parts of a model alike: what they compute, and all that their code may read.

Layers that are alike are proven once. What a part computes at its present sizes is its graph.
Where the sizes come from the graph does not tell: so the modules must be of the same classes and
hold the same numbers, words and objects. Whatever is not known to be the same makes parts unlike:
then each is proven by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from natsel.communities.community import Community
from natsel.communities.proof.parts import Part

TORCHS = frozenset((*vars(nn.Module()), "training"))
"""What every module holds, and says nothing of what it computes when it is evaluated."""

PLAIN = (str, bool, type(None), torch.dtype, torch.device)


class Likeness:
    """Numbers the parts of a model: those that are alike have the same number.

    Args:
        program: the exported model.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        self._graphs: dict[str, tuple[Any, ...]] | None = None
        self._numbers: dict[tuple[Any, ...], int] = {}

    def number(self, part: Part) -> int:
        """Return the number of a part."""
        return self._numbers.setdefault(self._print(part), len(self._numbers))

    def _print(self, part: Part) -> tuple[Any, ...]:
        if self._graphs is None:
            self._graphs = graphs(self._program)
        graph = self._graphs.get(part.path)
        if graph is None:
            return (part.path,)
        layer = [int(name) for name in part.path.split(".") if name.isdecimal()]
        modules = tuple(
            (path, type(module), _held(module, layer), _shapes(module))
            for path, module in part.module.named_modules()
        )
        leaves = tree_leaves((part.args, tuple(sorted(part.kwargs.items()))))
        entering = tuple(_known(leaf, layer) for leaf in leaves)
        return graph, modules, entering


def likeness(community: Community) -> tuple[Any, ...]:
    """Return what communities have in common that own the same places of like tensors."""
    slices = tuple((s.tensor, s.axis, s.role, s.index.numpy().tobytes()) for s in community.slices)
    return community.kind, community.size, community.minimum, slices


def graphs(program: ExportedProgram) -> dict[str, tuple[Any, ...]]:
    """Return what each module of an exported model computes, by its path.

    Nodes are told by their operators, their numbers and where their other arguments come from:
    from which node of the module, from which tensor of it, or from outside.
    """
    signature = program.graph_signature
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    seen: dict[str, _Seen] = defaultdict(_Seen)
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            if path:
                seen[path].add(node, path, held)
    return {path: tuple(found.entries) for path, found in seen.items()}


class _Seen:
    """The nodes of one module so far."""

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self._places: dict[fx.Node, int] = {}
        self._outside: dict[fx.Node, int] = {}

    def add(self, node: fx.Node, path: str, held: Mapping[str, str]) -> None:
        def told(source: fx.Node) -> Any:
            if source in self._places:
                return "node", self._places[source]
            name = held.get(source.name)
            if name is not None:
                return "tensor", name.removeprefix(f"{path}.")
            return "outside", self._outside.setdefault(source, len(self._outside))

        arguments = repr(fx.node.map_arg((node.args, node.kwargs), told))
        self._places[node] = len(self.entries)
        self.entries.append((str(node.target), arguments))


def _held(module: nn.Module, layer: Collection[int]) -> tuple[Any, ...]:
    if type(module).__module__.startswith("torch.nn.modules."):
        layer = ()  # Their numbers are sizes and strides, none says which of many layers it is.
    return tuple(
        (name, _known(value, layer))
        for name, value in sorted(vars(module).items())
        if name not in TORCHS and not isinstance(value, float)
    )


def _known(value: Any, layer: Collection[int]) -> Any:
    """Return what equal values have in common, and of anything unknown who it is."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, value.requires_grad
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, int):
        # A number that says which of many layers this is.
        return (int, "layer") if value in layer else (int, value)
    if isinstance(value, float):
        return float
    if isinstance(value, tuple | list):
        return type(value), tuple(_known(item, layer) for item in value)
    if isinstance(value, dict):
        return type(value), tuple((repr(k), _known(v, layer)) for k, v in value.items())
    return type(value), id(value)


def _shapes(module: nn.Module) -> tuple[Any, ...]:
    held = {**module._parameters, **module._buffers}
    return tuple((n, None if t is None else (tuple(t.shape), t.dtype)) for n, t in held.items())
