r"""The default scorer where there are data: for each kind of population the signal that is best.

Measured on two families of language models, heads are ordered best by what their consumers lose
once the less fit are gone ("joint"), neurons by what these lose once the others have taken over
what they can ("obs"), as compensation lets them. Experts, whose consumers see few tokens each, were
not measured: the loss itself orders them ("taylor").

So that kinds can be compared, each community keeps the order of its signal and gets the sizes of
another: the loss at stake to second order, $(m\,\partial L/\partial m)^2$ averaged over batches
("fisher"), sorted, for each parameter that goes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from natsel.communities import Communities
from natsel.communities.kinds import ROUTED

AUTO = "auto"
BY_KIND: Mapping[str, str] = {
    **{"neuron": "obs", "branch": "loss"},
    **dict.fromkeys(ROUTED, "taylor"),
}
OTHERS = "joint"
"""Signal of each other kind."""
SIZES = "fisher"
"""Signal whose values are compared between communities."""
HAIR = 1e-3
"""How far apart two populations stay whose sizes are equal, relative to them."""


def default_signal(kind: str) -> str:
    """Return the name of the signal that a kind of population is ordered by, where there are data.

    Example:
        >>> default_signal("neuron"), default_signal("head"), default_signal("expert")
        ('obs', 'joint', 'taylor')
    """
    return BY_KIND.get(kind, OTHERS)


def signals_for(communities: Communities) -> list[str]:
    """Return the names of the signals that are needed, each once."""
    wanted = [default_signal(c.kind) for c in communities.values()]
    return list(dict.fromkeys([*wanted, SIZES]))


def combined(
    communities: Communities, found: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return scores in the order of each kind's signal and in units of loss per parameter.

    Args:
        communities: whose populations they are.
        found: scores by signal; where a kind's own is missing, the sizes' or any other stands in.
    """
    any_other = next(iter(found))
    scores = {}
    for name, community in communities.items():
        wanted = default_signal(community.kind)
        told = [s for s in (wanted, any_other, *found) if s in found and name in found[s]]
        if not told:
            continue  # nothing of it can be watched: it stays whole
        order = found[told[0]][name]
        sizes = found[SIZES][name] if SIZES in found else _about_one(order)
        scores[name] = arranged(sizes.double() / max(community.cost.parameters, 1), order).float()
    return scores


def arranged(sizes: Tensor, order: Tensor) -> Tensor:
    """Return sizes in another order, none equal to the next.

    Args:
        sizes: ``[n]``, not negative.
        order: ``[n]``, higher is fitter; equal ones by index.

    Example:
        >>> arranged(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0.5, 0.1, 0.9])).round()
        tensor([2., 1., 3.])
    """
    n = len(sizes)
    hair = HAIR * torch.arange(n, dtype=sizes.dtype) / n
    scale = sizes.mean() if bool(sizes.any()) else torch.ones((), dtype=sizes.dtype)
    values = sizes.sort().values * (1 + hair) + HAIR * scale * hair
    found = torch.empty_like(values)
    found[order.argsort(stable=True)] = values
    return found


def of_branches(
    communities: Communities,
    losses: Mapping[str, Tensor],
    sizes: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Return scores of branches in the order of the loss per parameter that goes.

    Args:
        communities: of branches.
        losses: by how much the loss grows without each.
        sizes: what is compared between communities; the losses themselves where it is None.
    """
    scores = {}
    for name, community in communities.items():
        each = torch.tensor([max(b.cost.parameters, 1) for b in community.branches]).double()
        order = losses[name].double() / each
        size = order.clamp_min(0) if sizes is None else sizes[name].double() / each
        scores[name] = arranged(size, order).float()
    return scores


def _about_one(scores: Tensor) -> Tensor:
    """Return scores over their mean: all that can be compared where no loss is known."""
    return scores / scores.abs().mean().clamp_min(1e-30)
