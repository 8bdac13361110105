"""Weights that are computed at every pass: no parameter has rows or columns that could be cut."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import fx, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from natsel.communities.community import Community, Refusal
from natsel.communities.labels.derived import Derived
from natsel.communities.labels.graph import TensorRef, module_of, operator_name, place
from natsel.communities.labels.propagation import COMPUTED, ENTIRE, Propagation

HELD = "hold what is computed as a parameter of its own"
INTEGERS = "prune the floating-point model, then quantise the small one"
PRODUCTS = ("matmul.default", "mm.default", "bmm.default")
LAYERS = (
    *("linear.default", "addmm.default", "embedding.default", "prelu.default"),
    *(f"conv{n}d.default" for n in (1, 2, 3)),
    *("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input"),
    *("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input"),
    *("batch_norm.default", "instance_norm.default", "layer_norm.default", "group_norm.default"),
    "rms_norm.default",
)
"""Operators that read a weight as it is held, with what enters first; of a table it is first."""


CONVERSIONS = (
    *("to.dtype", "_to_copy.default", "mul.Tensor", "sub.Tensor", "div.Tensor", "add.Tensor"),
)
"""Operators by which whole numbers become floating-point ones."""


class Way(NamedTuple):
    """How a tensor of a module is computed.

    Attributes:
        module: path of the module.
        tensor: its attribute.
        what: in words.
        remedy: what makes a plain parameter of it.
    """

    module: str
    tensor: str
    what: str
    remedy: str


def computed(
    run: Propagation,
    model: nn.Module,
    communities: Iterable[Community],
    refused: Collection[Refusal],
) -> list[Refusal]:
    """Name the modules whose weights are computed, what computes them and what would help.

    Args:
        run: a finished propagation.
        model: what was exported.
        communities: what is offered all the same.
        refused: what is known to be left whole.

    Returns:
        A refusal for each module. Its reason is empty where the weight follows what it is computed
        from; its remedy then helps those that the module reads.
    """
    offered = {part.tensor for community in communities for part in community.slices}
    found: dict[tuple[str, str], Refusal] = {}
    for node in run.program.graph.nodes:
        if node.op != "call_function" or node in run.held:
            continue
        for source in node.all_input_nodes:
            if not _is_computed(run, source):
                continue
            names = _tensors_behind(run, source)
            followed = isinstance(run.values.get(source), Derived)
            if not names or (offered.issuperset(names) and not followed):
                continue
            way = next(_known_ways(model, names), None) or _any_way(node, source, names)
            if way is not None:
                size = _size(node, source)
                what = "" if followed else way.what
                if followed and any(ENTIRE in r.reason for r in refused if r.name == way.module):
                    what = way.what
                refusal = Refusal(way.module or type(model).__name__, size, what, way.remedy)
                found.setdefault((way.module, way.tensor), refusal)
    return list(found.values())


def explained(refusals: Iterable[Refusal], ways: Iterable[Refusal]) -> list[Refusal]:
    """Put what is known of computed weights in the place of what the graph says of them.

    Args:
        refusals: of what looks removable.
        ways: from :func:`computed`.
    """
    by_name: dict[str, Refusal] = {}
    for way in ways:
        known = by_name.setdefault(way.name, way)
        if known is not way:
            both = "; ".join(r for r in (known.reason, way.reason) if r)
            by_name[way.name] = replace(known, reason=both)
    result: list[Refusal] = []
    left = dict(by_name)
    for refusal in refusals:
        name = refusal.name.partition(".parametrizations.")[0]
        if name in by_name and by_name[name].reason:
            if name in left:
                result.append(left.pop(name))
        else:
            remedies = [w.remedy for w in by_name.values() if _reads(w.name) in refusal.reason]
            result.append(replace(refusal, remedy=remedies[0]) if remedies else refusal)
    return result + [way for way in left.values() if way.reason]


def how_computed(model: nn.Module, tensor: str) -> tuple[str, str]:
    """Return how a tensor that is no parameter of its module comes to be, and what would help.

    Args:
        model: the model.
        tensor: where its module's forward reads it, ``layer.weight`` say.
    """
    path, _, attribute = tensor.rpartition(".")
    for way in _ways_of(path, model.get_submodule(path)):
        if way.tensor == attribute:
            return way.what, way.remedy
    return "computed at every read", HELD


def _reads(name: str) -> str:
    return COMPUTED.format(module=name)


def _is_computed(run: Propagation, node: fx.Node) -> bool:
    """Tell whether a node computes a value from tensors of the model alone."""
    ref = isinstance(run.values.get(node), TensorRef)
    return node in run.held and node.op == "call_function" and not ref


def _tensors_behind(run: Propagation, source: fx.Node) -> list[str]:
    """Return the names of the parameters and buffers that a node computes from."""
    found: dict[str, None] = {}
    for node in _behind(source):
        value = run.values.get(node)
        if node.op == "placeholder" and isinstance(value, TensorRef):
            found.setdefault(value.name)
    return list(found)


def _behind(source: fx.Node) -> list[fx.Node]:
    stack, seen = [source], dict[fx.Node, None]()
    while stack:
        node = stack.pop()
        if node not in seen:
            seen[node] = None
            stack.extend(node.all_input_nodes)
    return list(seen)


def _known_ways(model: nn.Module, names: Iterable[str]) -> Iterator[Way]:
    """Yield what torch's own tools, and natsel's, do to the modules that hold some tensors."""
    for name in names:
        path, _, attribute = name.rpartition(".")
        path, inside, rest = f".{path}".partition(".parametrizations")
        path = path.removeprefix(".")
        attribute = rest.removeprefix(".").partition(".")[0] if inside else attribute
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue
        for way in _ways_of(path, module):
            if attribute == way.tensor or attribute.startswith(f"{way.tensor}_"):
                yield way


def _ways_of(path: str, module: nn.Module) -> Iterator[Way]:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            tensor = hook._tensor_name
            what = f"its {tensor} is masked by torch.nn.utils.prune at every pass"
            yield Way(path, tensor, what, f"torch.nn.utils.prune.remove(module, {tensor!r})")
        for kind, tool in ((WeightNorm, "weight_norm"), (SpectralNorm, "spectral_norm")):
            if isinstance(hook, kind):
                tensor = hook.name
                what = f"its {tensor} is computed by torch.nn.utils.{tool} at every pass"
                remedy = f"torch.nn.utils.remove_{tool}(module, {tensor!r})"
                yield Way(path, tensor, what, remedy)
    if parametrize.is_parametrized(module):
        stacks = module.parametrizations
        assert isinstance(stacks, nn.ModuleDict)
        for tensor, stack in stacks.items():
            yield _parametrized(path, tensor, list(stack.children()))
    if "crow_indices" in module._buffers:
        what = "its weight holds only what survived, in compressed rows"
        yield Way(path, "values", what, "cut whole populations first, or give it module.dense()")
    if hasattr(module, "weight_fake_quant"):
        what = f"its weight is quantised at every pass ({type(module).__name__})"
        remedy = "prune before training for quantisation, or convert back to floating point"
        yield Way(path, "weight", what, remedy)


def _parametrized(path: str, tensor: str, steps: list[nn.Module]) -> Way:
    kinds = ", ".join(type(step).__name__.lstrip("_") for step in steps)
    what = f"its {tensor} is computed by a parametrization ({kinds}) at every pass"
    remedy = f"torch.nn.utils.parametrize.remove_parametrizations(module, {tensor!r})"
    return Way(path, tensor, what, remedy)


def _any_way(node: fx.Node, source: fx.Node, names: list[str]) -> Way | None:
    """Say where a weight is computed, if an operator reads it as a weight."""
    operator = operator_name(node).removeprefix("aten.")
    table = operator == "embedding.default"
    if operator in LAYERS:
        if (node.args[0] is source) != table and source in node.all_input_nodes[:1]:
            return None
    elif operator not in PRODUCTS or not _as_weight(node, source):
        return None
    module = module_of(node) or names[0].rpartition(".")[0]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if _from_codes(source):
        what = f"its weight is quantised: computed at every pass from {shown}{place(source)}"
        return Way(module, "weight", what, INTEGERS)
    what = f"its weight is computed at every pass from {shown}{place(source)}"
    return Way(module, "weight", what, HELD)


def _from_codes(source: fx.Node) -> bool:
    """Tell whether whole numbers become the numbers of a weight, and are no mere places in it."""
    return any(
        _is_floating(node) and any(_is_whole(entering) for entering in node.all_input_nodes)
        for node in _behind(source)
        if operator_name(node).removeprefix("aten.") in CONVERSIONS
    )


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _is_whole(node: fx.Node) -> bool:
    value = node.meta.get("val")
    whole = isinstance(value, torch.Tensor) and value.dtype not in (torch.bool, torch.complex64)
    return whole and not _is_floating(node)


def _as_weight(node: fx.Node, source: fx.Node) -> bool:
    """Tell whether a product reads a matrix that arithmetic made, in the module that made it.

    Learned tokens that went through a layer are activations: no weight, though no input is in them.
    """
    value = source.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dim() != 2:
        return False
    made = {operator_name(n).removeprefix("aten.") for n in _behind(source)}
    return module_of(source) == module_of(node) and made.isdisjoint((*LAYERS, *PRODUCTS))


def _size(node: fx.Node, source: fx.Node) -> int:
    """Return how many populations a layer makes."""
    value, made = source.meta.get("val"), node.meta.get("val")
    operator = operator_name(node).removeprefix("aten.")
    if not isinstance(value, torch.Tensor) or not value.dim():
        return 0
    if isinstance(made, list | tuple):  # a recurrent layer: its outputs come first
        return int(made[0].shape[-1])
    last = operator in PRODUCTS or operator in ("addmm.default", "embedding.default")
    if value.dim() > 1 and (last or operator.startswith("conv_transpose")):
        return int(value.shape[-1 if last else 1])
    return int(value.shape[0])
