"""Products of queries and keys that code divides by the root of a width which shrinks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from natsel.communities.community import Community
from natsel.communities.copies import copied
from natsel.communities.tensors import tensors_of

Kept = Mapping[str, Mapping[int, Tensor]]


def keep_logits(
    small: nn.Module,
    communities: Iterable[Community],
    survivors: Mapping[str, Tensor],
    kept: Kept,
) -> None:
    """Let products over n of N dimensions, divided by sqrt(n), be what sqrt(N) made of them.

    Queries and keys are each multiplied by (n / N)^(1/4), in the rows that make them.

    Args:
        small: a model that was cut; tensors of it change in place.
        communities: of the dense model.
        survivors: one boolean tensor per community.
        kept: the places of its tensors that remain, by tensor and axis.
    """
    factors = _factors(communities, survivors, kept)
    tensors = tensors_of(small) if factors else {}
    for name, rows in factors.items():
        tensor = tensors[name].data
        tensor.copy_((tensor.double().cpu() * _fit(rows, tensor)).to(tensor))


def unrounded(
    base: nn.Module,
    small: nn.Module,
    communities: Iterable[Community],
    survivors: Mapping[str, Tensor],
    kept: Kept,
) -> nn.Module:
    """Return a small model with what :func:`keep_logits` multiplied in float64, for comparisons.

    Where a tensor is not the very rounding of these numbers, the model is returned as it is.

    Args:
        base: the dense model.
        small: what was extracted from it.
        communities: of the dense model.
        survivors: one boolean tensor per community.
        kept: the places that remain.
    """
    factors = _factors(communities, survivors, kept)
    dense, found = tensors_of(base), tensors_of(small)
    instead: dict[int, Tensor] = {id(t): t for t in found.values()} if factors else {}
    for name, rows in factors.items():
        tensor = dense[name].detach()
        for axis, places in kept[name].items():
            tensor = tensor.index_select(axis, places.to(tensor.device))
        exact = tensor.double().cpu() * _fit(rows, tensor)
        mine = found[name].detach()
        if exact.shape != mine.shape or not torch.equal(exact.to(mine), mine):
            return small
        instead[id(found[name])] = nn.Parameter(exact.to(mine.device), requires_grad=False)
    return copied(small, instead) if factors else small


def _factors(
    communities: Iterable[Community], survivors: Mapping[str, Tensor], kept: Kept
) -> dict[str, Tensor]:
    """Return, per tensor, by what each row that remains is multiplied."""
    found: dict[str, Tensor] = defaultdict(lambda: torch.ones(0, dtype=torch.float64))
    for community in communities:
        mask = survivors.get(community.name)
        if mask is None or not community.scaled or bool(mask.all()) or not bool(mask.any()):
            continue
        factor = float(mask.double().mean()) ** 0.25
        for part in (community.slices[number] for number in community.scaled):
            remaining = kept[part.tensor][0]
            if not len(found[part.tensor]):
                found[part.tensor] = torch.ones(len(remaining), dtype=torch.float64)
            mine = torch.isin(remaining, part.index[mask.cpu()])
            found[part.tensor][mine] *= factor
    return dict(found)


def _fit(rows: Tensor, tensor: Tensor) -> Tensor:
    return rows.reshape(-1, *[1] * (tensor.dim() - 1))
