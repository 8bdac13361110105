"""Where in the modules of a model the values around a branch can be seen.

What enters a module is a value of the graph where that is all the data that its operators read from
outside; what a module returns is one where it is all that others read of it. Both are looked up in
the graph; that the module then is called once, with one floating-point tensor, is seen in a run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from natsel.common.calls import Inputs, call
from natsel.communities.branches.branch import Branch, Sight
from natsel.communities.branches.flow import Flow
from natsel.communities.branches.sums import Summand
from natsel.communities.labels.graph import operator_name

DROPOUT = "aten.dropout.default"


class Sights:
    """Tells where the values around branches can be seen.

    Args:
        model: that is run once.
        flow: of its graph.
        inputs: what it runs on.
        summands: whose values are looked for.
    """

    def __init__(
        self, model: nn.Module, flow: Flow, inputs: Inputs, summands: Sequence[Summand]
    ) -> None:
        self._modules = dict(model.named_modules())
        self._flow = flow
        wanted = {n for s in summands for n in self._around(s)}
        found = _candidates(flow, wanted, self._modules)
        paths = {sight.path for sights in found.values() for sight in sights}
        shown = _shown(model, inputs, paths)
        self._sights: dict[fx.Node, list[Sight]] = {}
        for node, sights in found.items():
            size = tuple(node.meta["val"].shape[1:])
            good = [s for s in sights if shown.get(s) == size]
            # The innermost first: its inputs are the fewest, and its kind tells the axis.
            self._sights[node] = sorted(good, key=lambda s: (s.leaves, -s.path.count(".")))

    def told(self, summand: Summand, branch: Branch) -> Branch:
        """Return a branch that says where the values around it are seen."""
        before, adds, after = (
            next(iter(self._sights.get(node, ())), None) for node in self._around(summand)
        )
        return replace(
            branch,
            before=before,
            adds=adds,
            after=after if summand.alone else None,
            axis=self._axis(summand),
        )

    def _around(self, summand: Summand) -> tuple[fx.Node, fx.Node, fx.Node]:
        value = summand.value
        while operator_name(value) == DROPOUT and value.args[2] is False:
            value = self._flow.entering[value][0]
        return summand.before, value, summand.total

    def _axis(self, summand: Summand) -> int:
        """Return the axis of channels, where a module for images shows a value, else the last."""
        for node in self._around(summand):
            for sight in self._sights.get(node, ()):
                axis = _channels(self._modules[sight.path], node.meta["val"].dim())
                if axis is not None:
                    return axis
        return -1


def _channels(module: nn.Module, dim: int) -> int | None:
    if isinstance(module, nn.modules.conv._ConvNd):
        return -1 - len(module.kernel_size)
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm) and dim > 1:
        return 1 - dim
    return None


def _candidates(
    flow: Flow, wanted: set[fx.Node], modules: dict[str, nn.Module]
) -> dict[fx.Node, list[Sight]]:
    """Return the modules that, by the graph, have a value and no other as input or as output."""
    inside: dict[str, set[fx.Node]] = defaultdict(set)
    for node in flow.nodes:
        if node.op == "placeholder":
            continue
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            if path in modules and path:
                inside[path].add(node)
    found: dict[fx.Node, list[Sight]] = defaultdict(list)
    for path, nodes in inside.items():
        enters = {e for n in nodes for e in flow.entering[n] if e not in nodes} - flow.fixed
        enters = {e for e in enters if flow.name(e) is None}
        leaves = {n for n in nodes if n not in flow.fixed and not flow.users[n] <= nodes}
        for values, is_output in ((enters, False), (leaves, True)):
            if len(values) == 1 and (value := next(iter(values))) in wanted:
                found[value].append(Sight(path, is_output))
    return found


def _shown(
    model: nn.Module, inputs: Inputs, paths: Iterable[str]
) -> dict[Sight, tuple[int, ...] | None]:
    """Return the shape without the batch of the only tensor that enters or leaves modules."""
    found: dict[Sight, tuple[int, ...] | None] = {}

    def take(sight: Sight, value: Any) -> None:
        seen = only_tensor(value)
        again = sight in found
        found[sight] = None if seen is None or again else tuple(seen.shape[1:])

    def look(path: str) -> Any:
        def hook(_: nn.Module, args: Any, named: Any, left: Any) -> None:
            take(Sight(path, False), (args, named))
            take(Sight(path, True), left)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for path in set(paths):
            module = model.get_submodule(path)
            handle = module.register_forward_hook(look(path), with_kwargs=True)
            stack.callback(handle.remove)
        call(model, inputs)
    return found


def only_tensor(value: Any) -> Tensor | None:
    """Return the floating-point tensor in what enters or leaves a module, if it is the only one."""
    tensors = [x for x in tree_leaves(value) if isinstance(x, Tensor) and x.is_floating_point()]
    return tensors[0] if len(tensors) == 1 else None
