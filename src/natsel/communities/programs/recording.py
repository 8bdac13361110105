"""Write down what a model computes while it runs: its graph, for a fraction of what export costs.

Operators are seen where ``torch.export`` sees them, before they are taken apart, and become the
same nodes. What a run does not tell is left to ``torch.export``: decisions on values, shapes that
depend on them, tensors of unknown origin, unusual types of tensors.
"""

from __future__ import annotations

import linecache
import operator
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import _pop_mode_from_pre_dispatch, _set_mode_pre_dispatch
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.nn.modules import module as torch_modules
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary

from natsel.common.calls import Inputs, call, tensors_of_inputs
from natsel.communities.labels.graph import is_library
from natsel.communities.tensors import all_tensors

PLAIN = (int, float, bool, complex, str, type(None), torch.dtype, torch.device)
READS_VALUES = frozenset(
    ("item", "tolist", "numpy", "data_ptr", "storage", "untyped_storage", "is_set_to", "set_")
) | frozenset(("__array__", "__dlpack__", "__contains__", "requires_grad_", "backward"))
DECIDES = frozenset(
    (
        *("aten.item.default", "aten.is_nonzero.default", "aten._local_scalar_dense.default"),
        *("aten.equal.default", "aten.allclose.default", "aten.where.default"),
    )
)
LIFTS = ("aten.lift_fresh.default", "aten.lift_fresh_copy.default", "aten.lift.default")
DATA: Any = Tensor.data.__get__  # type: ignore[attr-defined]


class Unrecorded(Exception):
    """A run does not tell what the model computes: it is to be exported."""


@dataclass(frozen=True)
class Signature:
    """Which placeholder of a recorded graph is which tensor."""

    inputs_to_parameters: dict[str, str]
    inputs_to_buffers: dict[str, str]
    buffers_to_mutate: dict[str, str]
    inputs_to_lifted_tensor_constants: dict[str, str]
    user_inputs: tuple[str, ...]


@dataclass(frozen=True)
class Recorded:
    """What discovery reads of an exported program."""

    graph: fx.Graph
    graph_signature: Signature
    state_dict: dict[str, Tensor]
    constants: dict[str, Tensor]


def recorded(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    """Run a model and return its graph.

    Args:
        model: in evaluation mode.
        inputs: what it runs on.

    Returns:
        What discovery reads of an exported program, and nothing else of it.

    Raises:
        Unrecorded: if the run does not tell.
    """
    recorder = _Recorder(model, inputs)
    with torch.no_grad(), recorder.watching():
        result = call(model, inputs)
    return cast(ExportedProgram, recorder.program(result))


class _Recorder:
    """A graph that grows while a model runs."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.graph = fx.Graph()
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._stack: dict[str, tuple[str, str]] = {}
        self._stacks: list[dict[str, tuple[str, str]]] = []
        self._calls: dict[str, int] = {}
        self._nodes = WeakTensorKeyDictionary()
        self._first: fx.Node | None = None
        parameters = dict(model.named_parameters())
        self._state = all_tensors(model)
        held: dict[str, tuple[str, Tensor]] = {}
        for name, tensor in self._state.items():
            if tensor not in self._nodes:
                node = self._placeholder(f"p_{name.replace('.', '_')}", tensor)
                held[node.name] = name, tensor
        self._given = tensors_of_inputs(inputs)
        names = list(inputs) if isinstance(inputs, dict) else [f"x_{i}" for i in range(len(inputs))]
        users = [
            self._placeholder(name, x).name for name, x in zip(names, self._given, strict=True)
        ]
        # Tensors that modules hold beside their parameters and buffers are constants.
        self._constants = {
            id(value)
            for module in model.modules()
            for value in vars(module).values()
            if isinstance(value, Tensor)
        }
        self._written: dict[str, Tensor] = {}
        self._signature = Signature(
            {n: name for n, (name, _) in held.items() if name in parameters},
            {n: name for n, (name, _) in held.items() if name not in parameters},
            {},
            {},
            tuple(users),
        )

    def program(self, result: Any) -> Recorded:
        """Return what was recorded, ending in what the model returned."""
        leaves = tree_flatten(result)[0]
        if not all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in leaves):
            raise Unrecorded("an output of an unknown type")
        self.graph.output(tuple(self._told(leaf) for leaf in leaves))
        return Recorded(self.graph, self._signature, self._state, self._written)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See every operator, and which module is running."""
        mode = _Operators(self)
        with ExitStack() as stack:
            for handle in (
                torch_modules.register_module_forward_pre_hook(self._enter),
                torch_modules.register_module_forward_hook(self._leave),
            ):
                stack.callback(handle.remove)
            # Code asks whether it is traced.
            for flag in ("_is_compiling_flag", "_is_exporting_flag"):
                stack.callback(setattr, torch.compiler, flag, getattr(torch.compiler, flag, False))
                setattr(torch.compiler, flag, True)
            stack.enter_context(_Values())
            stack.enter_context(enable_python_dispatcher())
            _set_mode_pre_dispatch(mode)  # type: ignore[no-untyped-call]
            stack.callback(_pop_mode_from_pre_dispatch)
            yield

    def note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator and add it to the graph."""
        name = str(func)
        if name in DECIDES or _depends_on_values(func, name, args):
            raise Unrecorded(f"{name} depends on values")
        if name in LIFTS:
            # A number in the code becomes a tensor.
            result = func(*args, **kwargs)
            self._constant(result)
            return result
        arguments = self._told(args), self._told(kwargs)
        with torch._C._DisablePythonDispatcher():
            result = func(*args, **kwargs)
        node = self.graph.create_node("call_function", func, *arguments)
        node.meta["nn_module_stack"] = self._stack
        node.meta["stack_trace"] = _trace(sys._getframe(4))
        self._results(node, result)
        return result

    def _results(self, node: fx.Node, result: Any) -> None:
        if isinstance(result, Tensor):
            node.meta["val"] = _shape_alone(result)
            self._nodes[result] = node
        elif isinstance(result, list | tuple):
            values = []
            for number, item in enumerate(result):
                if not isinstance(item, Tensor):
                    values.append(item)
                    continue
                part = self.graph.create_node("call_function", operator.getitem, (node, number))
                part.meta.update(node.meta)
                self._results(part, item)
                values.append(part.meta["val"])
            node.meta["val"] = tuple(values)
        else:
            node.meta["val"] = result

    def _told(self, value: Any) -> Any:
        """Return arguments with nodes in place of tensors."""
        if isinstance(value, Tensor):
            node = self._nodes.get(value)  # type: ignore[no-untyped-call]
            if node is None:
                if id(value) not in self._constants or type(value) is not Tensor:
                    raise Unrecorded("a tensor of unknown origin")
                node = self._constant(value)
            return node
        if type(value) in (list, tuple):
            return type(value)([self._told(item) for item in value])
        if type(value) is dict:
            return {name: self._told(item) for name, item in value.items()}
        return value

    def _constant(self, tensor: Tensor) -> fx.Node:
        node = self._placeholder("constant", tensor)
        name = f"{node.name} (written in code)"  # no tensor of the model is called so
        self._signature.inputs_to_lifted_tensor_constants[node.name] = name
        self._written[name] = tensor
        return node

    def _placeholder(self, name: str, tensor: Tensor) -> fx.Node:
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
            raise Unrecorded(f"a {type(tensor).__name__}")
        with self.graph.inserting_before(self._first):
            node = self.graph.placeholder(name)
        node.meta["val"] = _shape_alone(tensor)
        self._nodes[tensor] = node
        return node

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._stacks.append(self._stack)
        path = self._paths.get(id(module))
        if path is None:
            return
        count = self._calls[path] = self._calls.get(path, -1) + 1
        kind = type(module)
        told = path, f"{kind.__module__}.{kind.__qualname__}"
        self._stack = {**self._stack, f"{path}@{count}" if count else path: told}

    def _leave(self, module: nn.Module, _: Any, result: Any) -> None:
        self._stack = self._stacks.pop()


class _Operators(ProxyTorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hears of every operator where torch lets a tracer hear of it, before it is taken apart."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__(cast(Any, None), "fake", pre_dispatch=True)
        self._recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self._recorder.note(func, args, kwargs or {})


class _Values(TorchFunctionMode):
    """Stops where code reads the values of a tensor."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in READS_VALUES or func == DATA:
            raise Unrecorded(f"{func.__name__} reads values")
        return func(*args, **(kwargs or {}))


def _depends_on_values(func: Any, name: str, args: tuple[Any, ...]) -> bool:
    """Tell whether what an operator gives, or its shape, depends on the values of tensors."""
    if torch.Tag.data_dependent_output in func.tags:
        return True
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    if name != "aten.index.Tensor":
        return True
    # Places that a mask tells are as many as it says.
    return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])


def _shape_alone(tensor: Tensor) -> Tensor:
    return (
        torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        if tensor.layout == torch.strided
        else tensor.to("meta")
    )


def _trace(frame: FrameType | None) -> str:
    """Return the line of the model's code that runs, or the innermost of torch's, as torch does."""
    innermost = ""
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if not _is_library(file):
            return _line(file, frame.f_lineno, name)
        if name == "forward" and not innermost:
            innermost = _line(file, frame.f_lineno, name)
        if file == __file__ and name == "recorded":
            break
        frame = frame.f_back
    return innermost


@lru_cache(maxsize=4096)
def _is_library(file: str) -> bool:
    return is_library(file)


@lru_cache(maxsize=4096)
def _line(file: str, number: int, name: str) -> str:
    code = linecache.getline(file, number).strip()
    return f'  File "{file}", line {number}, in {name}\n    {code}\n'
