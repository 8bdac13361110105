"""Turn a model into a program, whose sizes can follow whatever its Python code says."""

from __future__ import annotations

import inspect
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from natsel.common.calls import (
    Inputs,
    as_inputs,
    call,
    outputs_of,
    tensors_of_inputs,
    with_tensors,
    without_cache,
)
from natsel.common.errors import first_line
from natsel.common.modes import evaluating
from natsel.communities.discover import functional
from natsel.communities.gates.gates import folded
from natsel.communities.labels.graph import operator_name, place
from natsel.communities.programs.literals import OPEN
from natsel.communities.programs.normal_form import normalise
from natsel.communities.programs.program import Code, Program
from natsel.communities.programs.quiet import without_words
from natsel.communities.programs.rows import with_rows
from natsel.communities.programs.trace import TOLD, TensorKind
from natsel.communities.proof.doubled import in_float64
from natsel.communities.proof.gap import TOLERANCE, apart
from natsel.communities.tensors import all_tensors, canonical_names
from natsel.communities.unfit import check_fit, why_not_exported

ITEMS = ("aten.item.default", "aten._local_scalar_dense.default")


def as_program(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
) -> Program:
    """Return a model as a ``torch.export`` program that natsel can cut where it wrote sizes.

    ``qkv.view(B, T, 3, 12, 64)`` cannot follow when a head is removed: the 12 is written into
    the code. In a program it is a number in a graph, and removal rewrites it. The program is an
    ordinary module with parameters and buffers of the same names and the same values, copied; it
    runs, exports, compiles, and gradients flow through it.

    A program computes what the model computes in evaluation mode, on inputs of the shapes of the
    example; the first axis may have any length if the model's does. What Python computed from a
    size (``x / x.size(1)``) stays the number that it was: the small program equals the masked
    model, in which sizes do not change either.

    Args:
        model: any module that ``torch.export`` can export; it is not changed.
        example_inputs: as for :func:`natsel.discover`.

    Returns:
        The program. It is in the model's mode; where training would do something else (dropout,
        batch normalisation) it is in evaluation mode, and ``train()`` is refused.

    Raises:
        ValueError: if the model cannot be exported, or the program does not compute the same.

    Example:
        >>> class Reshaped(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        ...     def forward(self, x):
        ...         return self.last(self.first(x).relu().view(-1, 8))
        >>> from natsel import discover
        >>> discover(Reshaped(), (torch.zeros(1, 4),))
        Communities()
        >>> discover(as_program(Reshaped(), (torch.zeros(1, 4),)), (torch.zeros(1, 4),))
        Communities(first: 8 neurons)
    """
    inputs = as_inputs(example_inputs)
    check_fit(model, inputs)
    model = folded(model)
    mode = model.training
    reason = ""
    for attempt in _attempts(inputs):
        with evaluating(model), without_cache(model), without_words():
            try:
                program = _program(model, attempt, any_batch=attempt is not inputs)
            except Exception as error:  # noqa: BLE001 - export fails in many ways; the message is kept
                told = why_not_exported(model, attempt, error)
                reason = reason or f"cannot be exported by torch.export: {told}"
                continue
            reason = _difference(model, program, inputs, any_batch=attempt is not inputs)
        if not reason:
            rows = with_rows(program)
            program = rows if _same(rows, program, inputs) else program
            return program.train(mode) if not program._code.training else program.eval()
    raise ValueError(f"model={type(model).__name__} {reason}")


def _attempts(inputs: Inputs) -> list[Inputs]:
    """Return inputs of several samples, to export any number of them, and the inputs as given."""
    tensors = tensors_of_inputs(inputs)
    if all(x.dim() and x.shape[0] == tensors[0].shape[0] for x in tensors):
        # A length of 1 would be exported as fixed.
        return [with_tensors(inputs, [torch.cat((x, x)) for x in tensors]), inputs]
    return [inputs]


def _difference(model: nn.Module, program: Program, inputs: Inputs, *, any_batch: bool) -> str:
    """Return where a program differs from its model, or nothing."""
    tensors = tensors_of_inputs(inputs)
    batches = [tensors]
    if any_batch:
        batches += [tuple(x[:1] for x in tensors), tuple(torch.cat((x, x, x[:1])) for x in tensors)]
    for batch in batches:
        try:
            found = _apart(program, model, with_tensors(inputs, batch))
        except Exception as error:  # noqa: BLE001 - whatever the forward raises is the message
            return f"does not run as a program: {first_line(error)}"
        if not found <= TOLERANCE:
            return (
                f"computes something else as a program: outputs differ by {found:.3g} "
                "(randomness, or decisions on values in forward?)"
            )
    return ""


def _same(rows: Program, program: Program, inputs: Inputs) -> bool:
    """Tell whether two programs give the same, bit for bit, in the precision that they have."""
    with torch.no_grad():
        ours, theirs = outputs_of(call(rows, inputs)), outputs_of(call(program, inputs))
    return all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(ours, theirs, strict=True)
    )


def _apart(program: Program, model: nn.Module, inputs: Inputs) -> float:
    """Return how far the two are apart in float64, relative to the outputs."""
    with in_float64():
        ours, theirs = outputs_of(call(program, inputs)), outputs_of(call(model, inputs))
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return float("inf")
    return max((_of_one(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _of_one(ours: Tensor, theirs: Tensor) -> float:
    alike = (ours == theirs) | (ours.isnan() & theirs.isnan())
    if not bool((alike | (ours.isfinite() & theirs.isfinite())).all()):
        return float("inf")
    largest, scale = apart(ours, theirs)
    return largest / max(scale, 1e-300) if largest else 0.0


def _program(model: nn.Module, inputs: Inputs, *, any_batch: bool) -> Program:
    exported = functional(_export(model, inputs, any_batch))
    signature = exported.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        raise ValueError("it writes into its buffers or inputs")
    module = normalise(exported.graph_module)
    sources: list[str | None] = []
    tensors: dict[str, Tensor] = {}
    for spec in signature.input_specs:
        if not isinstance(spec.arg, TensorArgument):
            raise ValueError(f"an input {spec.arg.name} is no tensor")
        sources.append(None if spec.kind == InputKind.USER_INPUT else spec.target)
        if spec.kind == InputKind.CONSTANT_TENSOR:
            assert spec.target is not None
            tensors[spec.target] = exported.constants[spec.target]
    given = tensors_of_inputs(inputs)
    if sources.count(None) != len(given):
        raise ValueError("its inputs are not all used as they are given")
    owned = all_tensors(model)
    tensors = {**owned, **tensors}
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    shapes = [n.meta["val"].shape for n, s in zip(placeholders, sources, strict=True) if s is None]
    if any_batch and any(isinstance(shape[0], int) for shape in shapes):
        raise ValueError("its batch size is fixed")
    told = _told(module.graph, sources, tensors)
    for node in module.graph.nodes:
        node.meta = _noted(node)
        if node in told:
            node.meta[TOLD] = told[node]
    code = Code(
        module=module,
        signature=signature,
        sources=tuple(sources),
        tensors={name: TensorKind.of(tensor) for name, tensor in tensors.items()},
        canonical=canonical_names(model),
        inputs=dict(zip(_names(model, inputs), map(TensorKind.of, given), strict=True)),
        any_batch=any_batch,
        result=exported.call_spec.out_spec,
        training=_training(model, inputs),
        numbers={},
        digest=zlib.crc32(module.code.encode()),
    )
    return Program.build(code, _copied(tensors), set(model.state_dict()))


def _told(
    graph: fx.Graph, sources: Sequence[str | None], tensors: Mapping[str, Tensor]
) -> dict[fx.Node, float | bool]:
    """Return the numbers that code reads of the model's own tensors by ``.item()``.

    Raises:
        ValueError: if it reads one of the inputs, or of what is computed, or a whole number, which
            may be a size.
    """
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    held = dict(zip(placeholders, sources, strict=True))
    found: dict[fx.Node, float | bool] = {}
    for node in graph.nodes:
        if operator_name(node) not in ITEMS:
            continue
        source = node.args[0]
        name = held.get(source)
        if name is None:
            raise ValueError(f"it reads a number of what it computes by .item(){place(node)}")
        number = tensors[name].item()
        if type(number) is int:
            size = f"it reads a whole number of {name} by .item(){place(node)}"
            raise ValueError(f"{size}: what may be a size is a number in Python")
        found[node] = number
    return found


def _noted(node: fx.Node) -> dict[str, Any]:
    """Return what is worth knowing about a node: its place in the code, its open axes."""
    value = node.meta.get("val")
    shape = value.shape if isinstance(value, Tensor) else ()
    kept = ("stack_trace", "nn_module_stack")
    noted: dict[str, Any] = {key: node.meta[key] for key in kept if key in node.meta}
    noted[OPEN] = tuple(i for i, size in enumerate(shape) if not isinstance(size, int))
    return noted


def _export(model: nn.Module, inputs: Inputs, any_batch: bool) -> ExportedProgram:
    axes: dict[int, Any] = {0: Dim.AUTO} if any_batch else {}
    args, named = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    shapes: Any = {n: axes for n in named} if named else tuple(axes for _ in args)
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    if args and inspect.Parameter.VAR_POSITIONAL in kinds:
        alone = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        rest = (shapes[alone:],) if len(args) > alone else ()
        shapes = (*shapes[:alone], *rest)
    return torch.export.export(model, args, named, dynamic_shapes=shapes, strict=False)


def _training(model: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """Return the operators in which training differs from evaluation."""
    modes = [(module, module.training) for module in model.modules()]
    # With sizes that are numbers, which is faster.
    evaluation = _export(model, inputs, False)
    model.train()
    try:
        training = _export(model, inputs, False)
    except Exception:  # noqa: BLE001 - what cannot be compared is taken as different
        return ("a graph that cannot be exported",)
    finally:
        for module, mode in modes:
            module.training = mode
    if _steps(evaluation.graph) == _steps(training.graph):
        return ()
    ours, theirs = (
        Counter((name, numbers) for name, numbers, _ in _steps(p.graph))
        for p in (evaluation, training)
    )
    odd = (ours - theirs) + (theirs - ours)
    names = {name.removeprefix("aten.").split(".")[0].rstrip("_") for name, _ in odd}
    return tuple(sorted(names)) or ("the order of its operators",)


def _steps(graph: fx.Graph) -> list[tuple[str, str, str]]:
    """Return operators with the numbers among their arguments, and where the others come from."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    return [
        (
            operator_name(n),
            str(fx.node.map_arg((n.args, n.kwargs), lambda _: None)),
            str([place[source] for source in n.all_input_nodes]),
        )
        for n in graph.nodes
        if n.op == "call_function"
    ]


def _names(model: nn.Module, inputs: Inputs) -> list[str]:
    if isinstance(inputs, dict):
        return list(inputs)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in positional]
    return [*names, *(f"input_{i}" for i in range(len(names), len(inputs)))][: len(inputs)]


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors; a shared one stays shared."""
    copies: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in copies:
            copy = tensor.detach().clone()
            if isinstance(tensor, nn.Parameter):
                copy = nn.Parameter(copy, requires_grad=tensor.requires_grad)
            copies[id(tensor)] = copy
    return {name: copies[id(tensor)] for name, tensor in tensors.items()}
