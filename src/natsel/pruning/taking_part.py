"""Which layers of a model become sparse, and how much of each goes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from natsel.common.errors import choose, refuse
from natsel.common.patterns import Patterns, assigned, chosen
from natsel.communities.computed import how_computed
from natsel.selection.budget import Sparsity
from natsel.selection.structure import NM
from natsel.single_weights.matrices import as_matrix, matrices_in
from natsel.single_weights.patterns import Given, OfGroups, OfMatrix, OfRows, Pattern

WeightBudget = Sparsity | NM
TIED = "its weight is shared"
HEAD = "it gives the model's words"
UNASKED = "not asked for"


def layers_of(
    model: nn.Module, include: Patterns, exclude: Patterns
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Return the layers that become sparse by the name of their weight, and why others do not.

    Embeddings never do. Without ``include`` neither does what a language model gives its words
    with; and never what shares its weight with an embedding or another layer.

    Raises:
        ValueError: if a pattern matches nothing, or a weight is computed anew at each read.
    """
    found = dict(matrices_in(model))
    if not found:
        refuse("model", type(model).__name__, "a model with Linear or convolution layers")
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if callable(get_head) else None
    taken = set(chosen(found, include, exclude))
    left: dict[str, str] = {}
    for name, layer in found.items():
        if name not in taken:
            left[name] = UNASKED
        elif uses.get(id(layer._parameters.get("weight")), 0) > 1:
            left[name] = TIED
        elif layer is head and include is None:
            left[name] = HEAD
    layers = {name: layer for name, layer in found.items() if name not in left}
    if not layers:
        refuse("model", type(model).__name__, f"one with layers of its own ({left})")
    for name, layer in layers.items():
        weight = layer._parameters.get("weight")
        if not isinstance(weight, nn.Parameter) or layer.weight is not weight:
            what, remedy = how_computed(model, name)
            refuse(f"model.{name}", what, f"a parameter of its layer ({remedy})")
    return layers, left


def budgets_of(layers: Mapping[str, nn.Module], budget: object) -> dict[str, WeightBudget | Tensor]:
    """Return the budget of each layer that has one: masks by name, one for all, or by pattern.

    Raises:
        ValueError: if it is no budget of weights, or a pattern matches no layer.
    """
    if isinstance(budget, WeightBudget):
        return dict.fromkeys(layers, budget)
    if not isinstance(budget, Mapping) or not budget:
        refuse("budget", budget, "natsel.Sparsity, natsel.NM, a mapping to them, or masks")
    if all(isinstance(value, Tensor) for value in budget.values()):
        for name, mask in budget.items():
            choose("budget", name, layers)
            shape = layers[name].get_parameter("weight").shape
            if mask.dtype != torch.bool or mask.shape != shape:
                told = f"{mask.dtype} of shape {tuple(mask.shape)}"
                refuse(f"budget[{name!r}]", told, f"a mask of booleans of shape {tuple(shape)}")
        return dict(budget)
    for pattern, value in budget.items():
        if not isinstance(value, WeightBudget):
            refuse(f"budget[{pattern!r}]", value, "natsel.Sparsity(share), or natsel.NM(n, m)")
    return {name: value for name, (_, value) in assigned("budget", budget, layers).items()}


def pattern_of(name: str, layer: nn.Module, budget: WeightBudget | Tensor, scope: str) -> Pattern:
    """Return how many weights of a layer stay, as a matrix.

    Raises:
        ValueError: if nothing would stay, or M does not divide the inputs.
    """
    if isinstance(budget, Tensor):
        return Given(as_matrix(layer, budget))
    rows, columns = as_matrix(layer, layer.get_parameter("weight")).shape
    if isinstance(budget, NM):
        if columns % budget.num_all:
            allowed = f"a number that divides the {columns} inputs of {name!r}"
            refuse("num_all", budget.num_all, allowed)
        return OfGroups(budget.num_kept, budget.num_all)
    size = columns if scope == "row" else rows * columns
    num_removed = budget.count(size)
    if num_removed == size:
        refuse("sparsity", f"{size} of {size} in {name!r}", "a share that leaves one")
    return OfRows(num_removed) if scope == "row" else OfMatrix(num_removed)
