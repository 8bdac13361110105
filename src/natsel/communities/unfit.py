"""What no graph can be made of: told by name and with a remedy, before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from natsel.common.calls import Inputs, call, tensors_of_inputs
from natsel.common.errors import first_line, refuse
from natsel.communities.community import Community, Refusal
from natsel.communities.labels.graph import operator_name, place, place_of_error, tensors_in

SHARDED = (
    "the whole model, but this one is sharded: discover, score, select and extract it before that, "
    "or copy its full state (torch.distributed.checkpoint.state_dict) into a plain one"
)
FLOATING = (
    "floating-point weights, but these are quantised: prune the model that was quantised, then "
    "quantise the small one"
)
QUANTISED = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.", "torch.ao.nn.sparse.")
"""Where the classes of quantised modules are; those of a training that simulates it export."""

PACKED_NUMBERS = ("Params4bit", "Int8Params")
"""Classes of parameters, of bitsandbytes, that hold codes in place of weights."""

FLAT = ("torch.strided", "torch._mkldnn")
REAL = (
    "hold its real and imaginary parts as real parameters (torch.view_as_real): masses and fitness "
    "are real numbers"
)


def check_fit(model: object, inputs: Inputs, *, proof: bool = True) -> None:
    """Refuse a model that cannot be read at all; say what it is and what can be given instead.

    Args:
        model: anything.
        inputs: what it is to run on.
        proof: whether numbers are needed, so that tensors without data do not do.

    Raises:
        ValueError: if it is no module, compiled to TorchScript, exported, sharded, quantised, or
            holds tensors that are sparse, not initialised, without data or of inference mode.
    """
    if not isinstance(model, nn.Module):
        refuse("model", type(model).__name__, "a torch.nn.Module")
    for path, module in model.named_modules():
        if (wanted := _unfit_module(module)) is not None:
            refuse("model", _kind_at(path, module), wanted)
    for name, tensor in _tensors_of(model):
        if (told := _unfit_tensor(tensor)) is not None:
            what, allowed = told
            refuse(f"model.{name}", what, allowed)
    _check_meta(model, inputs, proof=proof)


def _kind_at(path: str, module: nn.Module) -> str:
    return f"{type(module).__name__} at {path}" if path else type(module).__name__


def _tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _unfit_module(module: nn.Module) -> str | None:
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__]
    if isinstance(module, torch.jit.ScriptModule):
        return "the nn.Module that was compiled by torch.jit: TorchScript cannot be exported"
    if isinstance(module, fx.GraphModule) and "eval" in vars(module):
        return "the nn.Module that was exported: an exported program has no modes"
    if any(k.startswith("torch.distributed.fsdp.") for k in kinds):
        return SHARDED
    if any(k.startswith(QUANTISED) for k in kinds):
        return FLOATING
    return None


def _unfit_tensor(tensor: Tensor) -> tuple[str, str] | None:
    kinds = {kind.__name__ for kind in type(tensor).__mro__}
    if is_lazy(tensor):
        return "not initialised", "a model that ran once: lazy modules learn their sizes so"
    if "DTensor" in kinds:
        return "a DTensor", SHARDED
    if kinds & set(PACKED_NUMBERS) or tensor.is_quantized:
        kind = type(tensor).__name__ if not tensor.is_quantized else "a quantised tensor"
        return f"{kind} ({str(tensor.dtype).removeprefix('torch.')})", FLOATING
    if is_traceable_wrapper_subclass(tensor) or not _copies(tensor):
        return (
            f"a {type(tensor).__name__}",
            "a plain tensor: prune first, then convert the small model",
        )
    if str(tensor.layout) not in FLAT:
        layout = str(tensor.layout).removeprefix("torch.")
        return layout, "a dense tensor: give it .to_dense(), of which natsel removes whole rows"
    if tensor.is_inference():
        allowed = "a tensor made outside torch.inference_mode: make or load the model outside of it"
        return "a tensor of inference mode", allowed
    return None


def _copies(tensor: Tensor) -> bool:
    """Tell whether a tensor can be copied, which is what a small model is made by."""
    if type(tensor) in (Tensor, nn.Parameter):
        return True
    try:
        copy.deepcopy(tensor.detach()[:0] if tensor.dim() else tensor.detach())
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return True


def _check_meta(model: nn.Module, inputs: Inputs, *, proof: bool) -> None:
    empty = [name for name, tensor in _tensors_of(model) if tensor.is_meta]
    entering = {x.is_meta for x in tensors_of_inputs(inputs)}
    if empty:
        whole = all(t.is_meta for _, t in _tensors_of(model)) and entering == {True}
        if whole and not proof:
            return
        also = ", or proof=False with inputs on meta, which shows what there is" if proof else ""
        allowed = f"weights with data: load them (model.to_empty(device=...) makes room){also}"
        refuse(f"model.{empty[0]}", "a tensor without data (meta)", allowed)
    if True in entering:
        refuse("example_inputs", "without data (meta)", "tensors with data, where the weights are")


def why_not_exported(model: nn.Module, inputs: Inputs, error: BaseException) -> str:
    """Return what in a forward no graph can hold, with the line of code and a remedy.

    Args:
        model: a model that ``torch.export`` failed on.
        inputs: what it runs on.
        error: what was raised.
    """
    names = _operators(model, inputs)
    where = place_of_error(error)
    if names & {"aten::_pack_padded_sequence", "aten::_pad_packed_sequence"}:
        return (
            f"forward packs sequences (nn.utils.rnn.PackedSequence){where}, whose sizes are data "
            "(remedy: run the recurrent layer on the padded tensor, and read it at the lengths)"
        )
    if any(name.startswith("quantized::") for name in names):
        return f"forward calls quantised operators{where} (remedy: give it {FLOATING})"
    told = f"{first_line(error)}{where}"
    if "data-dependent" in str(error) or "DataDependent" in type(error).__name__:
        told += " (remedy: avoid Python control flow on tensor values in forward)"
    return told


def check_sizes(model: nn.Module, program: ExportedProgram) -> None:
    """Make sure that the shapes of all that a model computes are known without its data.

    Args:
        model: for its name.
        program: of the model.

    Raises:
        ValueError: if the size of a tensor depends on the values of another one.
    """
    for node in program.graph.nodes:
        made = tensors_in(node.meta.get("val"))
        if any(free_unbacked_symbols(size) for x in made for size in x.shape):
            raise ValueError(
                f"model={type(model).__name__} cannot be followed: how many values "
                f"{operator_name(node)} gives depends on data{place(node)} "
                "(remedy: discover the part of the model before it, such as its backbone)"
            )


def _operators(model: nn.Module, inputs: Inputs) -> set[str]:
    """Return the names of the operators that a model runs."""
    seen = _Operators()
    try:
        with torch.no_grad(), seen:
            call(model, inputs)
    except Exception:  # noqa: BLE001 - what was seen until then is enough
        return seen.names
    return seen.names


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which operators run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def without_complex(
    communities: Iterable[Community], tensors: Mapping[str, Tensor]
) -> tuple[list[Community], list[Refusal]]:
    """Keep the communities of real tensors; refuse the others.

    Args:
        communities: what was collected.
        tensors: parameters and buffers by name.
    """
    kept: list[Community] = []
    refused: list[Refusal] = []
    for community in communities:
        names = (part.tensor for part in community.slices)
        found = next((n for n in names if n in tensors and tensors[n].is_complex()), None)
        if found is None:
            kept.append(community)
        else:
            refused.append(Refusal(community.name, community.size, f"{found} is complex", REAL))
    return kept, refused
