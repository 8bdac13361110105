"""A program at one batch size: every shape in its graph as a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram, ExportGraphSignature

TOLD = "number of a tensor"
"""Where a node's metadata holds what ``.item()`` of a tensor gave when the program was made."""


class TensorKind(NamedTuple):
    """Shape, type and device of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> TensorKind:
        """Describe a tensor."""
        return cls(tuple(tensor.shape), tensor.dtype, tensor.device)

    def empty(self) -> Tensor:
        """Return a tensor of this kind with any content."""
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class Trace:
    """What propagation reads of an exported program, every size a number.

    Attributes:
        graph: its nodes have the names that they have in the program.
        graph_signature: which placeholder is which tensor.
        state_dict: tensors without content, for their shapes.
        constants: none; they are among the tensors.
    """

    graph: fx.Graph
    graph_signature: ExportGraphSignature
    state_dict: dict[str, Tensor]
    constants: dict[str, Tensor]

    def as_exported(self) -> ExportedProgram:
        """Return itself: discovery uses nothing else of an exported program."""
        return cast(ExportedProgram, self)


def trace(
    module: fx.GraphModule,
    signature: ExportGraphSignature,
    kinds: tuple[TensorKind, ...],
    tensors: Mapping[str, TensorKind],
) -> Trace:
    """Work out every shape of a graph, without data, and write the numbers into a copy.

    Args:
        module: the graph; all its tensors are placeholders.
        signature: which placeholder is which tensor.
        kinds: of the placeholders.
        tensors: parameters, buffers and constants by name.

    Returns:
        The copy.
    """
    recorder = _Recorder(module)
    with torch.no_grad(), FakeTensorMode():
        recorder.run(*(kind.empty() for kind in kinds))
    copies: dict[fx.Node, Any] = {}
    graph = fx.Graph()
    for node in module.graph.nodes:
        value = recorder.found[node]
        if node.op == "call_function" and isinstance(value, int | float):
            copies[node] = value
            continue
        copies[node] = graph.node_copy(node, copies.__getitem__)
        copies[node].meta = {**node.meta, "val": value}
    meta = torch.device("meta")
    state = {name: kind._replace(device=meta).empty() for name, kind in tensors.items()}
    return Trace(graph, signature, state, {})


class _Recorder(fx.Interpreter):
    """Run a graph and remember every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.found[n] = n.meta[TOLD] if TOLD in n.meta else super().run_node(n)
        return self.found[n]
