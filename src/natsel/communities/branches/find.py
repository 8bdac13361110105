"""The branches of a model: found in its graph, told by its modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from natsel.common.calls import Inputs, call
from natsel.communities.branches.branch import LEAST, Branch, Stand, mean_cost
from natsel.communities.branches.flow import Flow
from natsel.communities.branches.gates import gates_of
from natsel.communities.branches.sights import Sights
from natsel.communities.branches.sums import Summand, summands_of
from natsel.communities.community import Community, Refusal
from natsel.communities.cost import Cost
from natsel.communities.kinds import BRANCH
from natsel.communities.labels.graph import module_of
from natsel.communities.labels.propagation import Propagation
from natsel.communities.tensors import canonical_names, common_path

NO_GATES = "what it adds does not come out of a linear map or a normalisation of its own"
NO_MODULE = "no module computes it and nothing else"


class Found(NamedTuple):
    """What was found of the branches of a model.

    Attributes:
        communities: one for each stream.
        refused: what looks like a branch and is none.
        between: multiply-accumulates without a weight, by the name of a branch.
    """

    communities: list[Community]
    refused: list[Refusal]
    between: dict[str, float]


def find_branches(
    model: nn.Module, program: ExportedProgram, run: Propagation, inputs: Inputs
) -> Found:
    """Return the branches of a model, by the stream that they are added to.

    Args:
        model: in evaluation mode.
        program: what it is as a graph.
        run: the propagation over it, for what operators cost.
        inputs: what the model runs on.
    """
    flow = Flow(program.graph, _held(model, program))
    modules = _Modules(flow)
    streams: dict[int, list[Branch]] = defaultdict(list)
    refused: list[Refusal] = []
    found = [s for s in summands_of(flow) if _names(s.inside, flow)]
    told: list[tuple[Summand, Branch]] = []
    between: dict[str, float] = {}
    for summand in found:
        branch = _branch(model, summand, flow, modules)
        if isinstance(branch, Branch):
            between[branch.name] = sum(
                each * x.numel() for x, each, at in run.label_macs if at in summand.inside
            )
            told.append((summand, _priced(branch, between[branch.name], run)))
        else:
            name = module_of(summand.value) or type(model).__name__
            refused.append(Refusal(name, 1, branch))
    returns = _returns(model, inputs, [s.path for _, b in told for s in b.stands])
    sights = Sights(model, flow, inputs, [s for s, _ in told])
    for summand, branch in told:
        stands = tuple(
            replace(s, arity=len(left), passed=left)
            for s in branch.stands
            if (left := returns.get(s.path)) is not None
        )
        if len(stands) < len(branch.stands):
            refused.append(Refusal(branch.name, 1, "a module of it returns no tensor first"))
            continue
        streams[summand.stream].append(sights.told(summand, replace(branch, stands=stands)))
    communities = []
    names: dict[str, int] = defaultdict(int)
    for branches in streams.values():
        if len(branches) < LEAST:
            refused += [Refusal(b.name, 1, "it is the only branch of its stream") for b in branches]
            continue
        name = common_path([b.name for b in branches]) or "branches"
        names[name] += 1
        name = f"{name}:branches" + (f"#{names[name]}" if names[name] > 1 else "")
        size, cost = len(branches), mean_cost(branches)
        communities.append(Community(name, BRANCH.name, size, cost, (), branches=tuple(branches)))
    return Found(communities, refused, between)


def _held(model: nn.Module, program: ExportedProgram) -> dict[str, str]:
    """Return the first name of every tensor by its placeholder."""
    first = canonical_names(model)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {placeholder: first.get(name, name) for placeholder, name in names.items()}


def _names(nodes: Iterable[fx.Node], flow: Flow) -> set[str]:
    return {name for n in nodes if (name := flow.name(n)) is not None}


def _branch(model: nn.Module, summand: Summand, flow: Flow, modules: _Modules) -> Branch | str:
    gates = gates_of(summand.value, summand.inside, flow)
    if gates is None:
        return NO_GATES
    outside = _names(set(flow.nodes) - summand.inside, flow)
    whole = modules.only_in(summand.inside)
    first = canonical_names(model)
    exits = modules.last(summand, whole)
    if exits is None:
        return NO_MODULE
    gone = {
        first[name]
        for name in first
        if any(name.startswith(f"{path}.") for path in whole) and first[name] not in outside
    }
    kept = tuple(name for name in dict.fromkeys(first.values()) if name in gone)
    stands = tuple(Stand(path, path == exits) for path in whole)
    holder = common_path([*whole, module_of(summand.user)])
    name = next((p for p in whole if any(g.startswith(f"{p}.") for g in gates.tensors)), exits)
    return Branch(name, holder, gates.tensors, gates.scale, kept, stands)


def _priced(branch: Branch, between: float, run: Propagation) -> Branch:
    mine = set(branch.tensors)
    parameters = set(run.program.graph_signature.inputs_to_parameters.values())
    count = sum(prod(run.shapes[n]) for n in mine & parameters if n in run.shapes)
    macs = sum(use.macs for use in run.weight_macs if use.tensor in mine)
    return replace(branch, cost=Cost(count, macs + between))


class _Modules:
    """Which nodes of a graph each module computes."""

    def __init__(self, flow: Flow) -> None:
        self._nodes: dict[str, list[fx.Node]] = defaultdict(list)
        self._order = {node: place for place, node in enumerate(flow.nodes)}
        for node in flow.nodes:
            for path, _ in (node.meta.get("nn_module_stack") or {}).values():
                if path:
                    self._nodes[path].append(node)

    def only_in(self, inside: frozenset[fx.Node]) -> list[str]:
        """Return the outermost modules all of whose nodes are among some, in order."""
        whole: list[str] = []
        for path in sorted(self._nodes, key=lambda p: p.count(".")):
            within = any(path.startswith(f"{outer}.") for outer in whole)
            if not within and inside.issuperset(self._nodes[path]):
                whole.append(path)
        return sorted(whole, key=lambda p: self._order[self._nodes[p][0]])

    def last(self, summand: Summand, whole: Sequence[str]) -> str | None:
        """Return the module that computes what the gates read; None where it is not gone whole."""
        ends = [(self._order[n], p) for p in whole for n in self._nodes[p] if n.op != "placeholder"]
        return max(ends)[1] if ends else None


def _returns(
    model: nn.Module, inputs: Inputs, paths: Iterable[str]
) -> dict[str, tuple[str, ...] | None]:
    """Return what modules return: a name for each value, that of an argument where it is one.

    Nothing where it is one tensor; None of anything but a tensor, alone or first of several.
    """
    found: dict[str, tuple[str, ...] | None] = {}

    def look(path: str) -> Any:
        def hook(_: nn.Module, args: Any, named: Any, left: Any) -> None:
            told: tuple[str, ...] | None = None
            if isinstance(left, Tensor):
                told = ()
            elif type(left) in (tuple, list) and left and isinstance(left[0], Tensor):
                given = {**{str(i): x for i, x in enumerate(args)}, **named}
                told = ("", *(_name_of(value, given) for value in left[1:]))
            found[path] = told if found.get(path, told) == told else None

        return hook

    with ExitStack() as stack, torch.no_grad():
        for path in set(paths):
            module = model.get_submodule(path)
            handle = module.register_forward_hook(look(path), with_kwargs=True)
            stack.callback(handle.remove)
        call(model, inputs)
    return found


def _name_of(value: Any, given: Mapping[str, Any]) -> str:
    if value is None:
        return ""
    return next((name for name, each in given.items() if each is value), "")
