"""Reading exported graphs: operator names, places in the user's code, nested arguments."""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from natsel.communities.labels.derived import Derived

OWN_FOLDER = Path(__file__).resolve().parents[2]
TORCH_FOLDER = Path(torch.__file__).resolve().parent
PYTHON_FOLDER = Path(traceback.__file__).resolve().parent


@dataclass(frozen=True)
class TensorRef:
    """A parameter or buffer that the graph reads, before anything says how its axes are used.

    Attributes:
        name: its name in the model, the first where several share the tensor.
        shape: its shape, as stored.
        axes: which axis of the stored tensor each axis of this view is.
        ranges: first place and the one after the last that this view holds, per stored axis.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def whole(cls, name: str, shape: tuple[int, ...]) -> TensorRef:
        """Return the view of a whole tensor."""
        return cls(name, shape, tuple(range(len(shape))), tuple((0, n) for n in shape))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of this view."""
        return tuple(self.ranges[axis][1] - self.ranges[axis][0] for axis in self.axes)

    def permuted(self, order: tuple[int, ...]) -> TensorRef:
        """Return the same tensor seen with its axes in another order."""
        return replace(self, axes=tuple(self.axes[i] for i in order))

    def narrowed(self, axis: int, start: int, length: int) -> TensorRef:
        """Return the view of some places along one axis of this view."""
        stored = self.axes[axis]
        first = self.ranges[stored][0] + start
        ranges = list(self.ranges)
        ranges[stored] = (first, first + length)
        return replace(self, ranges=tuple(ranges))


def operator_name(node: fx.Node) -> str:
    """Return an operator's name, such as ``aten.relu.default``."""
    return str(node.target)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's result."""
    return tuple(node.meta["val"].shape)


Weight: TypeAlias = TensorRef | Derived
"""What layers read as their weight."""


def is_weight(value: Any) -> TypeGuard[Weight]:
    """Tell whether a value is a parameter, or computed from parameters axis by axis."""
    return isinstance(value, TensorRef | Derived)


def made_of(graph: fx.Graph, placeholders: Iterable[str]) -> set[fx.Node]:
    """Return some placeholders, and the operators that compute from them alone.

    Args:
        graph: of an exported program.
        placeholders: names of nodes, such as those of parameters and buffers.
    """
    names = set(placeholders)
    found: set[fx.Node] = set()
    for node in graph.nodes:
        entering = node.all_input_nodes
        if node.op == "placeholder":
            inside = node.name in names
        else:
            inside = bool(entering) and all(n in found for n in entering)
        if inside and node.op != "output":
            found.add(node)
    return found


def constant_of(program: ExportedProgram, node: Any) -> Tensor | None:
    """Return the numbers that code writes, such as those of ``x[:, [0, -1]]``; else None."""
    while isinstance(node, fx.Node) and operator_name(node) in WRITTEN:
        node = node.args[0]
    if not isinstance(node, fx.Node) or node.op != "placeholder":
        return None
    name = program.graph_signature.inputs_to_lifted_tensor_constants.get(node.name)
    held = program.constants.get(name) if name is not None else None
    return held.detach().cpu() if isinstance(held, Tensor) and not held.is_meta else None


def module_of(node: fx.Node) -> str:
    """Return the path of the module whose forward an operator is in; nothing for the model."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def place(node: fx.Node) -> str:
    """Return `` at file:line `code` ``, where a node came from in user code, or nothing."""
    return _place_in(node.meta.get("stack_trace") or "")


@lru_cache(maxsize=4096)
def _place_in(trace: str) -> str:
    """The same, of a stack trace: the layers of a model and the passes over it share theirs."""
    lines = [line.strip() for line in trace.splitlines()]
    frames = [i for i, line in enumerate(lines) if line.startswith('File "')]
    own = [i for i in frames if not is_library(lines[i].split('"')[1])]
    if not frames:
        return ""
    index = (own or frames)[-1]
    file = Path(lines[index].split('"')[1]).name
    number = lines[index].split("line ")[-1].split(",")[0]
    code = lines[index + 1] if index + 1 < len(lines) else ""
    return f" at {file}:{number} `{code}`" if code else f" at {file}:{number}"


def place_of_error(error: BaseException) -> str:
    """Return `` at file:line `code` ``, the last line of user code that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not _is_machinery(f.filename)]
    if not own:
        return ""
    code = f" `{own[-1].line}`" if own[-1].line else ""
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}{code}"


def _is_machinery(file: str) -> bool:
    """Tell whether a file is of Python, torch or natsel's core, or no file at all."""
    folders = Path(file).parents
    python = PYTHON_FOLDER in folders and "site-packages" not in Path(file).parts
    ours = OWN_FOLDER / "common" in folders or TORCH_FOLDER.parent / "sympy" in folders
    return file.startswith("<") or python or ours or is_library(file)


def is_library(file: str) -> bool:
    """Tell whether a file is torch's, or of this package: no code of a model."""
    path = Path(file)
    return TORCH_FOLDER in path.parents or OWN_FOLDER / "communities" in path.parents


def tensors_in(value: Any) -> list[Any]:
    """Return the label tensors, references and computed weights inside nested arguments."""
    if isinstance(value, Tensor | TensorRef | Derived):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [t for item in value for t in tensors_in(item)]
    return []


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to the tensors inside nested lists and tuples."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, function) for item in value)
    return value


WEIGHTS_AT = {
    **{f"aten.conv{n}d.{kind}": (1, 2) for n in (1, 2, 3) for kind in ("default", "padding")},
    **dict.fromkeys(("aten.linear.default", "aten.prelu.default"), (1, 2)),
    **{
        f"aten.conv_transpose{n}d.{kind}": (1, 2)
        for n, kind in ((1, "default"), (2, "input"), (3, "input"))
    },
    **dict.fromkeys(("aten.addmm.default",), (0, 2)),
    **dict.fromkeys(("aten.matmul.default", "aten.mm.default"), (1,)),
    **dict.fromkeys(("aten.embedding.default",), (0,)),
    **dict.fromkeys(("aten.batch_norm.default", "aten.instance_norm.default"), (1, 2, 3, 4)),
    **dict.fromkeys(("aten.layer_norm.default", "aten.rms_norm.default"), (2, 3)),
    **dict.fromkeys(("aten.group_norm.default",), (2, 3)),
    **dict.fromkeys(("aten.lstm.input", "aten.gru.input"), (2,)),
    **dict.fromkeys(("aten.rnn_tanh.input", "aten.rnn_relu.input"), (2,)),
}
"""Where operators take weights and biases."""


def weights_computed(
    graph: fx.Graph, placeholders: Iterable[str], taught: Container[str]
) -> set[fx.Node]:
    """Return the operators that compute weights of layers from parameters and constants alone.

    Args:
        graph: of an exported program.
        placeholders: names of parameters and buffers.
        taught: names of operators for which it is known how axes follow; a weight that needs
            another one is left out.
    """
    names = set(placeholders)
    found: set[fx.Node] = set()
    for node in graph.nodes:
        for position in WEIGHTS_AT.get(operator_name(node), ()):
            given = node.args[position] if position < len(node.args) else None
            for source in given if isinstance(given, list | tuple) else [given]:
                if isinstance(source, fx.Node) and source.op == "call_function":
                    found |= _computing(source, names, taught)
    return found


WRITTEN = (
    *("aten.lift_fresh_copy.default", "aten.lift_fresh.default", "aten.to.dtype"),
    *("aten.detach.default", "aten.alias.default", "aten.clone.default"),
)
"""Operators between numbers that code writes and what they are used for."""

SEEN_AS_HELD = (
    *("aten.t.default", "aten.transpose.int", "aten.permute.default", "aten.numpy_T.default"),
    *("aten.detach.default", "aten.alias.default", "aten.contiguous.default", "aten.clone.default"),
)
"""Operators that show a parameter as it is held: nothing is computed."""


def _computing(source: fx.Node, names: Container[str], taught: Container[str]) -> set[fx.Node]:
    """Return what computes a weight, if operators that are known do it from parameters."""
    stack, seen = [source], {source}
    while stack:
        node = stack.pop()
        if not _may_compute(node, names, taught):
            return set()
        fresh = [n for n in node.all_input_nodes if n not in seen]
        seen.update(fresh)
        stack += fresh
    made = {n for n in seen if n.op == "call_function"}
    if made == seen or all(operator_name(n) in SEEN_AS_HELD for n in made):
        return set()
    return made


def _may_compute(node: fx.Node, names: Container[str], taught: Container[str]) -> bool:
    if node.op == "placeholder":
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or node.name not in names:
            return False
        return value.is_floating_point() or value.is_complex() or value.dtype == torch.bool
    known = operator_name(node) in taught or node.target is operator.getitem
    return node.op == "call_function" and (known or not node.all_input_nodes)
