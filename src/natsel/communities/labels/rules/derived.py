"""Operators that compute a weight from parameters: each axis of the result follows theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from natsel.communities.labels.derived import Axis, Derived, Share, of_parts
from natsel.communities.labels.graph import TensorRef, module_of, operator_name, place, shape_of
from natsel.communities.labels.labels import NONE
from natsel.communities.labels.propagation import Propagation, deriving
from natsel.communities.labels.rules.elementwise import BINARY, UNARY
from natsel.communities.labels.rules.reduction import REDUCTIONS, axes_of
from natsel.communities.labels.rules.shape import KEEPS

Parts = list[tuple[Axis, ...]]
ONE = Axis(torch.tensor([NONE]))
PROPORTIONAL = {f"aten.{n}.default" for n in ("neg", "negative", "positive", "abs", "relu")}
SUMS = ("aten.add.Tensor", "aten.sub.Tensor", "aten.subtract.Tensor", "aten.rsub.Tensor")
PRODUCTS = ("aten.mul.Tensor", "aten.multiply.Tensor", "aten.mul.Scalar")
QUOTIENTS = ("aten.div.Tensor", "aten.divide.Tensor", "aten.true_divide.Tensor", "aten.div.Scalar")
PLACED = ("aten.tril.default", "aten.triu.default")
"""Operators for which it counts where in a matrix an element is."""


def as_derived(run: Propagation, value: Any) -> Derived:
    """Return a parameter, a constant or a computed value with its axes apart."""
    if isinstance(value, Derived):
        return value
    if isinstance(value, TensorRef):
        parts: Parts = []
        for axis, stored in enumerate(value.axes):
            if value.sizes[axis] == 1:
                parts.append((ONE,))
            else:
                key = ((value.name, stored),)
                parts.append((Axis(run.axis(value, axis, "tied"), key, key),))
        return of_parts(parts, (Share(value.name, value.axes, 1.0),))
    assert isinstance(value, Tensor)
    # A constant: along an axis on which it is the same everywhere it ties nothing.
    return of_parts([(Axis(value.amax(_others(value, a)), (), ()),) for a in range(value.dim())])


def _others(value: Tensor, axis: int) -> tuple[int, ...]:
    return tuple(a for a in range(value.dim()) if a != axis)


def _unread(parts: Iterable[tuple[Axis, ...]]) -> Parts:
    return [tuple(replace(a, read=None) if a.size > 1 else a for a in part) for part in parts]


@deriving(*(f"aten.{name}" for name in KEEPS))
def keeps(run: Propagation, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """The same value."""
    return as_derived(run, x)


@deriving(*(f"aten.{name}.default" for name in UNARY if f"aten.{name}.default" not in PLACED))
def unary(run: Propagation, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """f(x), element by element."""
    x = as_derived(run, x)
    if operator_name(node) in PROPORTIONAL:
        return x
    return of_parts(_unread(x.parts()), x.shares)


@deriving(*(f"aten.{name}" for name in BINARY))
def binary(run: Propagation, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """f(x, y, ...), element by element with broadcasting."""
    name = operator_name(node)
    values = [as_derived(run, a) for a in args if isinstance(a, Derived | TensorRef | Tensor)]
    if len(values) == 1:
        scaled = name in PRODUCTS or (name in QUOTIENTS and not isinstance(args[0], int | float))
        (x,) = values
        return x if scaled else of_parts(_unread(x.parts()), x.shares)
    result = values[0]
    for other in values[1:]:
        result = _combined(run, node, name, result, other)
    return result


def _combined(run: Propagation, node: fx.Node, name: str, a: Derived, b: Derived) -> Derived:
    rank = max(len(a.groups), len(b.groups))
    ours, theirs = ([(ONE,)] * (rank - len(v.groups)) + v.parts() for v in (a, b))
    parts = [_met(run, node, name, p, q) for p, q in zip(ours, theirs, strict=True)]
    large = max((a, b), key=lambda v: (_numel(v), bool(v.shares), v is a))
    return of_parts(parts, large.shares)


def _numel(value: Derived) -> int:
    return int(torch.Size(value.sizes).numel())


def _met(
    run: Propagation, node: fx.Node, name: str, a: tuple[Axis, ...], b: tuple[Axis, ...]
) -> tuple[Axis, ...]:
    a, b = (tuple(x for x in part if x.size > 1) for part in (a, b))
    if not a or not b:
        kept = a or b or (ONE,)
        first = bool(a) or not b
        same = name in PRODUCTS or (name in QUOTIENTS and first)
        return kept if same else _unread([kept])[0]
    if [x.size for x in a] != [x.size for x in b]:
        reason = _reason(node)
        for axis in (*a, *b):
            run.space.fix(axis.labels, reason)
        return _unread([a])[0]
    return tuple(_tied(run, node, name, x, y) for x, y in zip(a, b, strict=True))


def _tied(run: Propagation, node: fx.Node, name: str, a: Axis, b: Axis) -> Axis:
    run.space.unite(a.labels, b.labels, _reason(node))
    labels = torch.where(a.labels == NONE, b.labels, a.labels)
    return Axis(labels, tuple(dict.fromkeys((*a.made, *b.made))), _read(run, name, a, b))


def _read(run: Propagation, name: str, a: Axis, b: Axis) -> tuple[tuple[str, int], ...] | None:
    """Return in which axes of tensors the result is linear, place by place."""
    if name in SUMS:
        if a.read is None or b.read is None or not (a.made and b.made):
            return None
        return tuple(dict.fromkeys((*a.read, *b.read)))
    factors = [(a, b)] if name in QUOTIENTS else [(a, b), (b, a)] if name in PRODUCTS else []
    linear = [x for x, y in factors if x.read and not set(x.read) & set(y.made)]
    parameters = set(run.program.graph_signature.inputs_to_parameters.values())
    linear.sort(key=lambda x: not any(tensor in parameters for tensor, _ in x.read or ()))
    return linear[0].read if linear else None


@deriving("aten.t.default", "aten.transpose.int", "aten.permute.default", "aten.numpy_T.default")
def permuted(run: Propagation, node: fx.Node, x: Any, *args: Any) -> Any:
    """The same in another order of axes."""
    x = as_derived(run, x)
    assert callable(node.target)
    order = _order(node.target, len(x.groups), args)
    parts = x.parts()
    return of_parts([parts[i] for i in order], x.shares)


def _order(target: Callable[..., Any], rank: int, args: tuple[Any, ...]) -> list[int]:
    return [n - 2 for n in target(torch.empty([n + 2 for n in range(rank)]), *args).shape]


SEEN = ("view", "_unsafe_view", "reshape", "reshape_as", "view_as", "unsqueeze")


@deriving(
    *(f"aten.{name}.default" for name in SEEN),
    *("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims"),
    *("aten.flatten.using_ints", "aten.unflatten.int"),
)
def seen(run: Propagation, node: fx.Node, x: Any, *args: Any) -> Any:
    """The same with some axes as one, or apart again."""
    x = as_derived(run, x)
    left = [axis for axis in x.fine if axis.size > 1]
    parts: Parts = []
    for size in shape_of(node):
        part: list[Axis] = []
        count = 1
        while count < size and left:
            part.append(left.pop(0))
            count *= part[-1].size
        if count != size:
            return _whole(run, node, x)
        parts.append(tuple(part) or (ONE,))
    return of_parts(parts, x.shares)


def _whole(run: Propagation, node: fx.Node, x: Derived) -> Derived:
    """Fix all that a value is computed from, and return one of the result's shape without it."""
    for axis in x.fine:
        run.space.fix(axis.labels, _reason(node))
    return as_derived(run, torch.ones(shape_of(node), dtype=torch.int64))


def _reason(node: fx.Node) -> str:
    return f"a weight is computed from it and other data{place(node)}"


@deriving("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def joined(run: Propagation, node: fx.Node, tensors: Any, dim: int = 0) -> Any:
    """Values side by side: each keeps its places."""
    values = [as_derived(run, t) for t in tensors]
    values = [v for v in values if _numel(v)]
    rank = len(values[0].groups)
    dim %= rank
    total = sum(v.sizes[dim] for v in values)
    if any(len([a for a in v.along(dim) if a.size > 1]) > 1 for v in values):
        for v in values:
            _whole(run, node, v)
        return as_derived(run, torch.ones(shape_of(node), dtype=torch.int64))
    parts = values[0].parts()
    for other in values[1:]:
        for axis in (a for a in range(rank) if a != dim):
            parts[axis] = _met(run, node, SUMS[0], parts[axis], other.along(axis))
    along = [next((a for a in v.along(dim) if a.size > 1), v.along(dim)[0]) for v in values]
    made = tuple(dict.fromkeys(key for a in along for key in a.made))
    reads = [a.read for a in along if a.made]
    read = None if None in reads else tuple(dict.fromkeys(k for r in reads for k in r or ()))
    parts[dim] = (Axis(torch.cat([a.labels for a in along]), made, read),)
    shares = [
        replace(share, part=share.part * v.sizes[dim] / total) for v in values for share in v.shares
    ]
    return of_parts(parts, tuple(shares))


@deriving(*(f"aten.{name}" for name in REDUCTIONS), "aten.norm_except_dim.default")
def reduced(run: Propagation, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A number of all places of an axis: none of them can go without changing it."""
    x = as_derived(run, x)
    rank = len(x.groups)
    if operator_name(node) == "aten.norm_except_dim.default":
        axes = tuple(a for a in range(rank) if a != (args[1] if len(args) > 1 else 0) % rank)
    else:
        axes = axes_of(node, rank)
    run.depends_on(x, axes)
    value = node.meta["val"]
    several = isinstance(value, list | tuple)
    shape = tuple((value[0] if several else value).shape)
    parts = [(ONE,) if a in axes else part for a, part in enumerate(_unread(x.parts()))]
    if len(shape) < rank:
        parts = [part for a, part in enumerate(parts) if a not in axes]
    result = of_parts(parts)
    return tuple(result for _ in value) if several else result


@deriving("aten.batch_norm.default", "aten.instance_norm.default")
def standardised(
    run: Propagation,
    node: fx.Node,
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    *args: Any,
) -> Any:
    """Rows of a weight with mean 0 and variance 1."""
    x = as_derived(run, x)
    axes = tuple(a for a in range(len(x.groups)) if a != 1)
    if args and args[0] is True and mean is None and (module := module_of(node)):
        # The module can hold what was taken of all columns, for those that are left.
        run.standards[module] = torch.cat([a.labels for i in axes for a in x.along(i)])
    else:
        run.depends_on(x, axes)
    parts = _unread(x.parts())
    for value in (weight, bias, mean, variance):
        if value is not None:
            (along,) = as_derived(run, value).parts()
            parts[1] = _met(run, node, "", parts[1], along)
    return of_parts(parts, x.shares)


@deriving("aten._weight_norm.default", "aten._weight_norm_interface.default")
def weight_norm(run: Propagation, node: fx.Node, v: Any, g: Any, dim: int = 0) -> Any:
    """g v / |v|, where the norm runs over all axes but one."""
    v, g = as_derived(run, v), as_derived(run, g)
    rank = len(v.groups)
    dim = dim % rank if dim != -1 else -1
    run.depends_on(v, tuple(a for a in range(rank) if a != dim))
    directions = of_parts(_unread(v.parts()), v.shares)
    result = _combined(run, node, PRODUCTS[0], g, directions)
    return (result, as_derived(run, g)) if "interface" in operator_name(node) else result
