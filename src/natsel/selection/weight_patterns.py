"""Budgets of single weights by patterns of names: half of these, 2:4 of those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.common.patterns import assigned
from natsel.selection.budget import Sparsity
from natsel.selection.sequence import Scope
from natsel.selection.structure import NM, Blocks
from natsel.selection.survivors import Survivors
from natsel.selection.unstructured import select_weights
from natsel.single_weights.weights import Weights


def by_patterns(
    weights: Weights, budgets: Mapping[str, Any], *, scope: Scope | Literal["row"], floor: int
) -> Survivors:
    """Select weights by one budget for each pattern; what none matches stays whole.

    Where a pattern's budget says itself what is compared (N:M, blocks), the scope "row" is
    that of the others.

    Args:
        weights: their tensors, and what scores them.
        budgets: by pattern of names.
        scope: within each pattern.
        floor: see :func:`natsel.selection.unstructured.select_weights`.

    Raises:
        ValueError: if a pattern matches nothing, two match one tensor, or names of one tensor have
            two budgets.
    """
    for pattern, value in budgets.items():
        if not isinstance(value, Sparsity | NM | Blocks):
            refuse(f"budget[{pattern!r}]", value, "natsel.Sparsity, NM or Blocks, for weights")
    owner = assigned("budget", budgets, weights)
    for name, first in weights.owner.items():
        if owner.get(name) != owner.get(first):
            refuse("budget", f"another for {name!r}", f"that of {first!r}: they are one tensor")
    found: dict[str, Tensor] = {}
    for pattern, value in budgets.items():
        names = [name for name in weights if name in owner and owner[name][0] == pattern]
        within = scope if isinstance(value, Sparsity) or scope != "row" else "community"
        found |= select_weights(weights.only(names), value, scope=within, floor=floor)
    whole = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items() if n not in found}
    return Survivors({n: (found | whole)[n] for n in weights}, device=None)
