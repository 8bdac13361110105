"""Run an exported graph on labels instead of data."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from natsel.common.errors import choose, first_line
from natsel.common.logs import logger_of
from natsel.communities.community import OUTPUT, Counted
from natsel.communities.kinds import marked
from natsel.communities.labels.averaged import averaged
from natsel.communities.labels.derived import STANDARD, Derived
from natsel.communities.labels.graph import (
    TensorRef,
    made_of,
    map_tensors,
    module_of,
    operator_name,
    place,
    tensors_in,
    weights_computed,
)
from natsel.communities.labels.groups import grouping_of, in_groups
from natsel.communities.labels.labels import DATA, NONE, LabelSpace, compact, narrowed
from natsel.communities.labels.parts import are_of_one_layer
from natsel.communities.labels.routes import preferences, routed_by, scores_behind
from natsel.communities.labels.unused import leading_to_weights, unused

_LOG = logger_of(__name__)

MAX_LIFTED_ELEMENTS = 1 << 24
MAX_PASSES = 100
ENTIRE = "its weight is computed from all of its rows"
COMPUTED = "it is read by {module}, whose weight is computed"


class WeightMacs(NamedTuple):
    """Multiply-accumulates of one use of a weight, spread evenly along some of its axes."""

    tensor: str
    axes: tuple[int, ...]
    macs: float


Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register how an operator treats labels.

    The function gets ``(run, node, *args, **kwargs)`` with label tensors in place of data
    tensors and a :class:`TensorRef` in place of parameters and buffers, and returns the label
    tensor (or tuple) of the result.

    Args:
        operators: names such as ``"aten.relu.default"``.

    Returns:
        A decorator that leaves the function as it is.
    """

    def register(function: Rule) -> Rule:
        for name in operators:
            RULES[name] = function
        return function

    return register


DERIVING: dict[str, Rule] = {}


def deriving(*operators: str) -> Callable[[Rule], Rule]:
    """Register how an operator computes a weight, or a part of one, from parameters.

    The function gets what :func:`rule` says, with :class:`Derived` in place of what is computed,
    and returns such.

    Args:
        operators: names such as ``"aten.mul.Tensor"``.

    Returns:
        A decorator that leaves the function as it is.
    """

    def register(function: Rule) -> Rule:
        for name in operators:
            DERIVING[name] = function
        return function

    return register


class Propagation:
    """One model's labels: the graph run on them until nothing changes any more."""

    def __init__(
        self,
        program: ExportedProgram,
        canonical: dict[str, str],
        *,
        residual: bool = False,
        dims: bool = False,
        query_heads: bool = False,
        expert_groups: bool = False,
    ) -> None:
        self.program = program
        self.expert_groups = expert_groups
        self.dims = dims
        self.query_heads = query_heads
        self.residual = residual
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.routes = routed_by(program)
        self._refs = self._references(canonical)
        self.held = made_of(program.graph, self._refs)
        routers = dict.fromkeys(self.routes.values())
        self.groupings = {r: g for r in routers if (g := grouping_of(r, set(self._refs)))}
        self._between = {node: g for g in self.groupings.values() for node in g.nodes}
        self.unused = unused(program.graph)
        self.averaged = averaged(program.graph)
        self.deriving = weights_computed(program.graph, self._refs, DERIVING)
        self._cut_along = leading_to_weights(self.unused, self.held)
        self.reading: set[fx.Node] = set()
        # A layer that looked as if it mixed places, before what it reads was known to be one
        # population, has left labels behind that are too coarse: then all begins anew.
        while misread := self._to_the_end():
            self.reading |= misread
        for node, (weight, axis) in self.mixing.items():
            reason = f"it mixes places of each channel{place(node)}"
            self.space.fix(self.axis(weight, axis, "out"), reason)

    def _to_the_end(self) -> set[fx.Node]:
        """Run until nothing changes; return the layers that were taken for others on the way."""
        self.inexact: list[Tensor] = []
        self.space = LabelSpace()
        self.axis_labels: dict[tuple[str, int], Tensor] = {}
        self.lifted: dict[str, Tensor] = {}
        self.roles: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.weight_macs: list[WeightMacs] = []
        self.label_macs: list[tuple[Tensor, float, fx.Node]] = []
        self.macs = 0.0
        self.shared: dict[fx.Node, Tensor] = {}
        self.marked: dict[str, list[Tensor]] = defaultdict(list)
        self.normed: dict[str, list[Tensor]] = defaultdict(list)
        self.counted: dict[Counted, Tensor] = {}
        self.standards: dict[str, Tensor] = {}
        self.unread: dict[tuple[str, int], Tensor] = {}
        self.routers: dict[fx.Node, Tensor | None] = dict.fromkeys(self.routes.values())
        held = set(self._refs)
        self.routing = {node for top_k in self.routers for node in scores_behind(top_k, held)}
        self.preferences = {
            self._refs[name].name for top_k in self.routers for name in preferences(top_k, held)
        }
        self.barriers: dict[str, str] = {}
        self.untaught: dict[str, str] = {}
        self.values: dict[fx.Node, Any] = {}
        self.depends: list[Tensor] = []
        self.mixing: dict[fx.Node, tuple[TensorRef, int]] = {}
        seen: set[fx.Node] = set()
        for _ in range(MAX_PASSES):
            before = self.space.num_changes
            self._run()
            seen |= self.mixing.keys()
            if self.space.num_changes == before:
                return seen - self.mixing.keys()
        raise ValueError(
            f"a rule keeps changing labels after {MAX_PASSES} passes: a rule may only make new "
            "labels through run.axis"
        )

    def _references(self, canonical: dict[str, str]) -> dict[str, TensorRef]:
        signature = self.program.graph_signature
        held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        tensors = {**self.program.state_dict, **self.program.constants}
        refs = {}
        for placeholder, target in held.items():
            name = canonical.get(target, target)
            shape = tuple(tensors[target].shape)
            self.shapes[name] = shape
            refs[placeholder] = TensorRef.whole(name, shape)
        return refs

    def _run(self) -> None:
        environment = self.values = {}
        self.inexact.clear()
        self.depends.clear()
        self.mixing.clear()
        # What is counted depends on which way a layer is read, as later passes may know better.
        self.macs = 0.0
        self.weight_macs.clear()
        self.label_macs.clear()
        self.marked.clear()
        self.normed.clear()
        self.counted.clear()
        self.standards.clear()
        self.unread.clear()
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                ref = self._refs.get(node.name)
                environment[node] = ref if ref is not None else self._data(node)
            elif node.op == "output":
                self._output(node)
            elif node.op == "call_function":
                args = fx.node.map_arg(node.args, environment.__getitem__)
                kwargs = fx.node.map_arg(node.kwargs, environment.__getitem__)
                environment[node] = self._call(node, args, kwargs)
            else:
                environment[node] = self._data(node)

    def _call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._node = node
        if node in self.unused and node not in self._cut_along:
            # Whatever it makes of the populations, nobody sees it.
            args, kwargs = _as_data(args), _as_data(kwargs)
        if node.target is operator.getitem:
            return args[0][args[1]]
        if (grouping := self._between.get(node)) is not None:
            return in_groups(self, node, grouping, *args[:1])
        deriving = node in self.deriving and bool(tensors_in((args, kwargs)))
        function = (DERIVING if deriving else RULES).get(operator_name(node))
        if function is not None:
            try:
                return function(self, node, *args, **kwargs)
            except (ValueError, AssertionError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever a rule did not foresee
                failing = f"the rule for {operator_name(node)} fails{place(node)}"
                reason = f"{failing}: {first_line(error)}"
                _LOG.debug(reason, exc_info=error)
                return self.barrier(node, args, kwargs, reason=reason)
        if not tensors_in((args, kwargs)):
            value = node.meta.get("val")
            return self._data(node) if tensors_in(value) else value
        return self.barrier(node, args, kwargs)

    def _output(self, node: fx.Node) -> None:
        written = self.program.graph_signature.buffers_to_mutate
        for made in node.all_input_nodes:
            reason = "it is kept in a buffer of the model" if made.name in written else OUTPUT
            for labels in tensors_in(self.values[made]):
                self.space.fix(self.lift(labels), reason)

    def _data(self, node: fx.Node) -> Any:
        return map_tensors(
            node.meta.get("val"), lambda t: torch.full(tuple(t.shape), DATA, dtype=torch.int64)
        )

    # What rules use.

    def barrier(
        self, node: fx.Node, args: Any, kwargs: Any = None, *, reason: str | None = None
    ) -> Any:
        """Fix everything that enters an operator without a rule; its result is plain data.

        Args:
            node: the operator.
            args: what enters.
            kwargs: and by name.
            reason: why its rule does not hold here, where it has one.
        """
        name = operator_name(node)
        # Of what is computed from weights alone, only what reads the result is in the way.
        unknown = reason is None
        reason = reason or f"no rule for {name}{place(node)}"
        met = tensors_in((args, kwargs))
        if (
            unknown
            and node not in self.held
            and any(isinstance(m, TensorRef) or bool((narrowed(m) > DATA).any()) for m in met)
        ):
            self.barriers[name] = place(node)
        for labels in met:
            if isinstance(labels, TensorRef) and unknown:
                self.untaught[labels.name] = reason
            self.space.fix(self.lift(labels), reason)
        return self._data(node)

    def unlike_weight(self, node: fx.Node, args: Any, weight: Any) -> Any:
        """Fix everything that enters a layer whose weight is no parameter of the rule's shape."""
        if isinstance(weight, TensorRef):
            return self.barrier(node, args)
        module = module_of(node)
        where = "" if module else place(node)
        reason = COMPUTED.format(module=module or "forward") + where
        return self.barrier(node, args, reason=reason)

    def axis(self, ref: Any, axis: int, role: str) -> Tensor:
        """Return the labels of one axis of a parameter, and note the part it plays.

        Args:
            ref: the parameter.
            axis: which axis, in the view that the operator sees.
            role: "out" (makes populations), "in" (a linear map reads them) or "tied".
        """
        if isinstance(ref, Derived):
            return self._computed_axis(ref, axis, role)
        assert isinstance(ref, TensorRef)
        stored = ref.axes[axis]
        key = (ref.name, stored)
        if key not in self.axis_labels:
            self.axis_labels[key] = self.space.fresh(ref.shape[stored])
        self.roles[key].add(role)
        labels = self.axis_labels[key][slice(*ref.ranges[stored])]
        if ref.name in self.lifted:
            reason = f"{ref.name} serves both as a weight and as plain data"
            self.space.fix(labels, reason)
            self.space.fix(self.lifted[ref.name], reason)
        return labels

    def _computed_axis(self, weight: Derived, axis: int, role: str) -> Tensor:
        """Return the labels of one axis of a computed weight; say why where they cannot go."""
        along = [a for a in weight.along(axis) if a.size > 1]
        if len(along) > 1:
            reason = f"it is one of several axes of a computed weight{place(self._node)}"
            for part in along:
                self.space.fix(part.labels, reason)
            return torch.full((weight.sizes[axis],), DATA, dtype=torch.int64)
        if not along:
            return torch.full((1,), NONE, dtype=torch.int64)
        (part,) = along
        module = module_of(self._node)
        reads = COMPUTED.format(module=module or "forward") + ("" if module else place(self._node))
        entire = self.depends_fully(part.labels)
        if entire.any():
            reason = reads if role == "in" else ENTIRE
            self.space.fix(part.labels[entire], reason)
        elif role == "in" and not part.read:
            if self._is_standardised(part.labels) or f"{module}.{STANDARD}" in self.shapes:
                # A zero in the parameter is none in the weight: what makes it is silenced.
                self.unread.update(dict.fromkeys(part.made, part.labels))
            else:
                self.space.fix(part.labels, reads)
        parameters = self.program.graph_signature.inputs_to_parameters.values()
        for key in part.made:
            goes_along = role == "in" and key not in (part.read or ())
            self.roles[key].add("tied" if goes_along or key[0] not in parameters else role)
        return part.labels

    def _is_standardised(self, labels: Tensor) -> bool:
        """Tell whether a weight is standardised along an axis by what its module can hold."""
        if not self.standards:
            return False
        held = self.space.roots(torch.cat(list(self.standards.values())))
        return bool(torch.isin(self.space.roots(labels), held).all())

    def depends_on(self, value: Derived, axes: tuple[int, ...]) -> None:
        """Note that a number is computed from all places of some axes: none of them can go."""
        for axis in axes:
            for part in value.along(axis):
                if part.size > 1:
                    self.depends.append(part.labels)
                    self.space.fix(part.labels, "")

    def depends_fully(self, labels: Tensor) -> Tensor:
        """Tell of which labels a number of a computed weight depends on all."""
        if not self.depends:
            return torch.zeros(labels.shape, dtype=torch.bool)
        return torch.isin(self.space.roots(labels), self.space.roots(torch.cat(self.depends)))

    def lift(self, value: Any) -> Tensor:
        """Return a label tensor for a value: a parameter becomes one label per element."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Derived):
            for part in value.fine:
                self.space.fix(part.labels, "a weight computed from it is also plain data")
            return torch.full(value.sizes, DATA, dtype=torch.int64)
        assert isinstance(value, TensorRef)
        if value.name not in self.lifted:
            count = 1
            for size in value.shape:
                count *= size
            if count > MAX_LIFTED_ELEMENTS:
                self.lifted[value.name] = torch.full(value.shape, DATA, dtype=torch.int64)
            else:
                self.lifted[value.name] = self.space.fresh(*value.shape, loose=True)
        for (name, axis), labels in list(self.axis_labels.items()):
            if name == value.name:
                reason = f"{name} serves both as a weight (axis {axis}) and as plain data"
                self.space.fix(labels, reason)
                self.space.fix(self.lifted[name], reason)
        held = self.lifted[value.name][tuple(slice(*places) for places in value.ranges)]
        return held.permute(value.axes)

    def charge(self, weight: TensorRef | Derived, axes: tuple[int, ...], macs: float) -> None:
        """Charge multiply-accumulates to a weight.

        Args:
            weight: the weight, as the operator sees it.
            axes: the axes along which they are spread evenly; shrinking one shrinks them.
            macs: how many there are.
        """
        self.macs += macs
        if isinstance(weight, Derived):
            for share in weight.shares:
                used = WeightMacs(share.tensor, share.axes, macs * share.part)
                self.weight_macs.append(used)
            return
        stored = tuple(weight.axes[axis] for axis in axes)
        self.weight_macs.append(WeightMacs(weight.name, stored, macs))

    def charge_labels(self, labels: Tensor, macs_each: float) -> None:
        """Charge multiply-accumulates to each of some labels."""
        self.macs += macs_each * labels.numel()
        self.label_macs.append((labels.reshape(-1), macs_each, self._node))

    def counts(self, node: fx.Node, x: Tensor, axis: int) -> bool:
        """Tell whether a mean is over several populations, and note that it is to count all."""
        rows = self.space.roots(narrowed(x)).movedim(axis, -1)
        if rows.shape[-1] < 2 or not bool((rows > DATA).all()):
            return False
        if bool((rows == rows[..., :1]).all()):
            return False
        self.counted[Counted(module_of(node), x.shape[axis])] = rows.reshape(-1)
        return True

    def spans_width(self, x: Tensor, axis: int) -> bool:
        """Tell whether a normalisation runs over a width that may be cut on request.

        It does where different populations lie along the axis, and everywhere the same ones. They
        are noted: removing one of them changes how the rest is normalised.
        """
        if not self.residual:
            return False
        rows = self.space.roots(narrowed(x)).movedim(axis, -1)
        width = rows.reshape(-1, rows.shape[-1])
        if not bool((width > DATA).all()) or not bool((width[0] != width[0][0]).any()):
            return False
        if not bool((width == width[:1]).all()):
            # Tokens of several makers are one width if it is all that one of them makes.
            if not any(bool((width == made).all(1).any()) for made in self._made(width.shape[1])):
                return False
            self.space.unite(width[:1].expand_as(width), width, "it meets plain data")
        self.inexact.append(width[0])
        return True

    def made(self) -> Tensor:
        """Return the classes of all that layers make."""
        makers = [labels for key, labels in self.axis_labels.items() if "out" in self.roles[key]]
        found = torch.cat(makers) if makers else torch.empty(0, dtype=torch.int64)
        result: Tensor = torch.unique(self.space.roots(found))
        return result

    def _made(self, size: int) -> Iterator[Tensor]:
        """Yield the classes of every axis of a size that makes populations."""
        for key, labels in self.axis_labels.items():
            if "out" in self.roles[key] and len(labels) == size:
                yield self.space.roots(labels)

    def mark(self, labels: Tensor, kind: str) -> None:
        """Note a kind of populations that their weights do not tell, such as heads.

        Raises:
            ValueError: if no row of :mod:`natsel.communities.kinds` is one that rules mark.
        """
        choose("kind", kind, marked())
        self.marked[kind].append(labels.reshape(-1))

    def combine(self, node: fx.Node, *values: Any) -> Tensor:
        """Unite what meets in elementwise arithmetic, with broadcasting.

        An operand that is repeated over places of different populations (a mask, a scale shared
        by all) belongs to none of them and ties nothing. One whose every element meets exactly
        one population belongs to it. A population whose values are repeated over several others
        (a spatial gate, an outer product) has no linear consumer there: it is fixed.
        """
        operands = [self.lift(v) for v in tensors_in(values)]
        result = operands[0]
        for other in operands[1:]:
            result = self._combine_two(result, other, f"it meets other data{place(node)}")
        return result

    def _combine_two(self, a: Tensor, b: Tensor, reason: str) -> Tensor:
        whole = torch.Size(np.broadcast_shapes(a.shape, b.shape))
        a, b = _unrepeated(a), _unrepeated(b)
        shape = torch.Size(np.broadcast_shapes(a.shape, b.shape))
        a = a.reshape((1,) * (len(shape) - a.dim()) + tuple(a.shape))
        b = b.reshape((1,) * (len(shape) - b.dim()) + tuple(b.shape))
        a, b = _narrowed_with(a, b), _narrowed_with(b, a)
        shape = torch.Size(np.broadcast_shapes(a.shape, b.shape))
        if bool((a == NONE).all()) or bool((b == NONE).all()):
            # One and the same constant changes nothing about who owns the other.
            other = b if bool((a == NONE).all()) else a
            return other.expand(whole)
        if a.shape == b.shape and not bool((self._is_plain(a) | self._is_plain(b)).any()):
            # Most of what meets: populations, each with one other.
            self.space.unite(a, b, reason)
            return _widened(compact(self.space.roots(a)), whole)
        a_free, b_free = self._free(a, b, shape), self._free(b, a, shape)
        # A table of each (slopes of heads) that is scaled by data of all remains one of each.
        a_kept, b_kept = self._keeps(a, b, shape), self._keeps(b, a, shape)
        # A free element that is a population of its own is repeated over several others.
        a_many, b_many = a_free & ~self._is_plain(a), b_free & ~self._is_plain(b)
        if (kept := self._kept_of_outer(a, a_free, b, b_free)) is a:
            a_kept = a_kept | a_many.expand(shape)
        elif kept is b:
            b_kept = b_kept | b_many.expand(shape)
        for operand, many, other in ((a, a_many, b), (b, b_many, a)):
            if operand is not kept and bool(many.any()):
                if are_of_one_layer(self, operand, other):
                    self.space.unite(operand.expand(shape), other.expand(shape), reason)
                else:
                    self.space.fix(operand[many], reason)
        a, b, a_free, b_free = (t.expand(shape) for t in (a, b, a_free, b_free))
        tied = ~a_free & ~b_free
        self.space.unite(a[tied], b[tied], reason)
        nobody = torch.where(a_kept, a, torch.where(b_kept, b, DATA))
        result = torch.where(a_free & b_free, nobody, torch.where(a_free, b, a))
        result = torch.where(a == NONE, b, torch.where(b == NONE, a, result))
        if not bool((result == DATA).any()):
            result = compact(self.space.roots(result))
        return _widened(result, whole)

    def _free(self, x: Tensor, y: Tensor, shape: torch.Size) -> Tensor:
        """Return which elements of ``x`` tie nothing where they meet ``y``."""
        high, single = self._met(x, y)
        if not bool(single.all()) and bool((loose := self.space.is_loose(y) & (y > DATA)).any()):
            # A parameter with numbers for each place of a population is that population's.
            belongs = self._met(x, torch.where(loose, NONE, y))[1]
            single = single | (belongs & ~self._is_plain(x))
        # Data that meets one and the same population everywhere does not tell populations apart.
        named = high[high > DATA]
        tells_apart = bool(named.numel()) and bool((named != named[0]).any())
        return ~single if tells_apart else ~single | self._is_plain(x)

    def _kept_of_outer(self, a: Tensor, a_free: Tensor, b: Tensor, b_free: Tensor) -> Tensor | None:
        """Return the operand of an outer product whose populations may go: the other's stay.

        That is the one with more of them, of as many the one that came first, and none where
        both are the same. Nothing that a single
        one of the others meets may be in the operand that stays.
        """
        left = []
        for x, free in ((a, a_free), (b, b_free)):
            if not bool((free & ~self._is_plain(x)).any()):
                return None
            loose = ~self.space.is_fixed(x) & ~self._is_plain(x)
            found = np.unique(self.space.roots(x[free & loose]).numpy())
            left.append((-len(found), *found.tolist()))
            if bool((loose & ~free).any()):
                return None
        if left[0] == left[1]:
            return None
        return a if left[0] < left[1] else b

    def _met(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest class of ``y`` that each element of ``x`` meets; if it is the only."""
        met = self.space.roots(y)
        over = tuple(i for i in range(x.dim()) if x.shape[i] == 1 and y.shape[i] > 1)
        high = met.amax(dim=over, keepdim=True) if over else met
        low = torch.where(met == NONE, torch.iinfo(torch.int64).max, met)
        low = low.amin(dim=over, keepdim=True) if over else low
        return high, ((low == high) | (high == NONE)).expand(x.shape)

    def _keeps(self, x: Tensor, y: Tensor, shape: torch.Size) -> Tensor:
        """Tell where parameters that met nothing yet meet data that is repeated over several."""
        repeated = (y <= DATA) & ~self._met(y, x)[1]
        return (self.space.is_loose(x) & (x > DATA)).expand(shape) & repeated.expand(shape)

    def _is_plain(self, x: Tensor) -> Tensor:
        """Tell which labels are no population's: data, and parameters that met nothing yet."""
        return (x <= DATA) | self.space.is_loose(x)


def _as_data(value: Any) -> Any:
    """Return nested arguments with plain data in place of labels and references."""
    if isinstance(value, Tensor | TensorRef | Derived):
        shape = tuple(value.shape) if isinstance(value, Tensor) else value.sizes
        return torch.full((), DATA, dtype=torch.int64).expand(shape)
    if isinstance(value, dict):
        return {name: _as_data(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_as_data(item) for item in value)
    return value


def _widened(x: Tensor, whole: torch.Size) -> Tensor:
    return x.reshape((1,) * (len(whole) - x.dim()) + tuple(x.shape)).expand(whole)


def _unrepeated(x: Tensor) -> Tensor:
    """Return data that is repeated along an axis with one place there: it has one value there.

    Of populations only the label is repeated; their values differ from place to place.
    """
    found = narrowed(x)
    return found if bool((found <= DATA).all()) else x


def _narrowed_with(x: Tensor, other: Tensor) -> Tensor:
    """Return labels narrowed where they, and what they meet, are the same along an axis."""
    for axis, size in enumerate(x.shape):
        alike = other.shape[axis] == 1 or other.stride(axis) == 0
        if size > 1 and x.stride(axis) == 0 and alike:
            x = x.narrow(axis, 0, 1)
    return x
