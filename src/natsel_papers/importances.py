"""The importances of torch-pruning, on the populations and samples of a study."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.common.extras import require
from natsel.common.modes import evaluating
from natsel.communities import Communities

IMPORTANCES = ("magnitude", "taylor", "hessian", "lamp", "fpgm", "activation")
HESSIAN_SAMPLES = 500
"""Samples whose squared gradients torch-pruning's hessian importance averages: one pass each."""

Batches = Sequence[tuple[Tensor, Tensor]]
Scores = dict[str, Tensor]


def check_installed() -> None:
    """Make sure that torch-pruning is there.

    Raises:
        MissingExtraError: with the line that installs it.
    """
    require("torch_pruning", "bench")


def importances(communities: Communities, data: Batches) -> dict[str, Scores]:
    """Score neurons as torch-pruning does, with its own code and default options.

    Its dependency graph finds what a neuron owns, its importance gives the group one number per
    neuron. Gradients are of the mean cross-entropy over all of ``data``; activations those of all
    of ``data`` in one pass, since it keeps only the last one. The hessian gets the squared
    gradients of many samples, as is meant: its own sum keeps the last one only (1.6.1).

    Args:
        communities: neurons of Linear layers; each is named after its layer.
        data: batches of inputs and labels.

    Returns:
        ``{importance: {community: [size]}}``.

    Raises:
        ValueError: if a community is not the output of a Linear layer.
    """
    library: Any = require("torch_pruning", "bench")
    model = copy.deepcopy(communities.model)
    layers = {name: _layer(model, name) for name in communities}
    found = {}
    with warnings.catch_warnings(), evaluating(model):
        warnings.simplefilter("ignore")
        graph = library.DependencyGraph().build_dependency(model, communities.example_inputs)

        def read(importance: Callable[[Any], Tensor]) -> Scores:
            scores = {}
            for name, layer in layers.items():
                group = graph.get_pruning_group(
                    layer, library.prune_linear_out_channels, list(range(layer.out_features))
                )
                scores[name] = importance(group).detach().cpu()
            return scores

        kinds = library.importance
        found["magnitude"] = read(kinds.GroupMagnitudeImportance(p=2))
        found["lamp"] = read(kinds.LAMPImportance(p=2))
        found["fpgm"] = read(kinds.FPGMImportance(p=2))
        activation = kinds.ActivationImportance(p=2)
        with torch.no_grad(), activation.compute_importance(model):
            model(torch.cat([x for x, _ in data]))
        found["activation"] = read(activation)
        model.zero_grad()
        count = sum(len(x) for x, _ in data)
        for x, y in data:
            loss = F.cross_entropy(model(x), y, reduction="sum") / count
            loss.backward()  # type: ignore[no-untyped-call]
        found["taylor"] = read(kinds.GroupTaylorImportance())
        hessian = kinds.GroupHessianImportance()
        squares = _squared_gradients(model, _singles(data, HESSIAN_SAMPLES))

        def by_curvature(group: Any) -> Tensor:
            # It forgets the sums after the first group that it scores.
            hessian._accu_grad, hessian._counter = dict(squares), dict.fromkeys(squares, 1)
            value: Tensor = hessian(group)
            return value

        found["hessian"] = read(by_curvature)
    return {name: found[name] for name in IMPORTANCES}


def _layer(model: nn.Module, name: str) -> nn.Linear:
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, nn.Linear):
        refuse("kinds", name, "neurons of Linear layers, for a comparison with torch-pruning")
    return layer


def _squared_gradients(model: nn.Module, samples: Batches) -> dict[nn.Parameter, Tensor]:
    sums: dict[nn.Parameter, Tensor] = {}
    for x, y in samples:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            if parameter.grad is not None:
                square = parameter.grad.square()
                sums[parameter] = sums[parameter] + square if parameter in sums else square
    return sums


def _singles(data: Batches, limit: int) -> Batches:
    inputs, labels = (torch.cat(parts)[:limit] for parts in zip(*data, strict=True))
    return [(inputs[i : i + 1], labels[i : i + 1]) for i in range(len(inputs))]
