"""Scores where none are given: by each kind's own signal; of branches, by how much they turn."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.batches import Data, inputs_for, read_batch
from natsel.common.calls import call, outputs_of, without_cache
from natsel.common.errors import NonFiniteError
from natsel.common.modes import evaluating
from natsel.communities import Communities
from natsel.communities.gates.gates import folded
from natsel.fitness import score


def scores_for(
    communities: Communities, given: Mapping[str, Tensor] | None, data: Data
) -> dict[str, Tensor]:
    """Return the scores that are given, and those of the communities for which none are.

    Args:
        communities: that take part.
        given: one tensor per community, of any of them; or None.
        data: batches that can be read again.
    """
    found = {name: value for name, value in (given or {}).items() if name in communities}
    missing = {n: c for n, c in communities.items() if n not in found}
    kinds = {c.kind for c in missing.values() if not c.branches}
    if kinds:
        labelled = all(read_batch(batch).labels is not None for batch in data)
        scorer = "auto" if labelled else "joint"
        scores = score(communities.only(*kinds), scorer, data=data)
        found |= {name: value for name, value in scores.items() if name not in found}
    if any(c.branches for c in missing.values()):
        turned = turns(communities, data)
        found |= {name: value for name, value in turned.items() if name not in found}
    return found


def turns(communities: Communities, data: Data) -> dict[str, Tensor]:
    r"""Score branches by how far each turns its stream: $1 - \cos(x, x + f(x))$, mean over places.

    x is what enters the first module of the branch and f(x) what leaves the last one.

    Args:
        communities: with branches; others are left out.
        data: batches.

    Returns:
        ``{community: float64 [size]}``.

    Reference:
        X. Men et al., ShortGPT: Layers in Large Language Models are More Redundant Than You
        Expect, arXiv 2403.03853, 2024, of whole blocks.
    """
    model = folded(communities.model)
    found = {n: torch.zeros(c.size, dtype=torch.float64) for n, c in communities.items()}
    num = 0
    with ExitStack() as stack:
        for name, community in communities.items():
            for number, branch in enumerate(community.branches):
                held: dict[str, Tensor] = {}
                paths = [stand.path for stand in branch.stands]
                last = next((s.path for s in branch.stands if s.zero), paths[-1])
                entry, leave = _hooks(held, found[name], number)
                first, end = model.get_submodule(paths[0]), model.get_submodule(last)
                stack.callback(first.register_forward_pre_hook(entry, with_kwargs=True).remove)
                stack.callback(end.register_forward_hook(leave).remove)
        with evaluating(model), without_cache(model), torch.no_grad():
            for batch in data:
                call(model, inputs_for(model, batch))
                num += 1
    scores = {n: found[n] / max(num, 1) for n, c in communities.items() if c.branches}
    for name, value in scores.items():
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"what branches of {name!r} add is NaN or infinite on the data")
    return scores


def _hooks(held: dict[str, Tensor], into: Tensor, number: int) -> tuple[Any, Any]:
    def entry(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        held["x"] = outputs_of((args, named))[0].detach()

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        x, f = held.pop("x", None), outputs_of(output)[0].detach()
        if x is None or x.shape != f.shape:
            into[number] += 1.0  # nothing is known of it: as if it turned all
            return
        axis = 1 if x.dim() == 4 else -1
        into[number] += float((1 - torch.cosine_similarity(x, x + f, dim=axis)).double().mean())

    return entry, leave
