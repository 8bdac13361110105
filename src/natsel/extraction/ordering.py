"""Query heads ordered within their groups, so that the last places hold those that do least.

Legend: G query heads in a group, K groups, d width of a head, W_h the columns that read head h.
"""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.communities.community import Community, Slice
from natsel.extraction.moments import Moments


def num_groups(community: Community) -> int:
    """Return how many groups a community of query heads has: as many runs as a place owns.

    Example:
        >>> from natsel.communities.cost import Cost
        >>> places = torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7]])
        >>> part = Slice("q.weight", 0, places, "out")
        >>> num_groups(Community("attention", "query head", 2, Cost(1, 1.0), (part,)))
        2
    """
    made = next(s for s in community.slices if s.role == "out")
    return int((made.index[0].diff() > 1).sum()) + 1


def ordered(
    tensors: dict[str, Tensor], community: Community, moments: dict[str, Moments]
) -> Tensor:
    """Sort the query heads of each group by what they add to the output, in place.

    That is the mean square of what a head adds, tr(W_h C_h W_h^T) with the second moment C_h of
    what it puts out. Heads of a group may change places, with all that is theirs: they read the
    same keys and values. So each group loses its own least.

    Args:
        tensors: of the model, changed in place.
        community: of query heads.
        moments: of what the weight that reads the heads reads.

    Returns:
        The share of each place in what all add, ``[G]``.
    """
    groups = num_groups(community)
    reader = next(s for s in community.slices if s.role == "in")
    weight = tensors[reader.tensor].double().cpu()
    second = moments[reader.tensor].second(about_mean=False).double().cpu()
    shares = torch.zeros(groups, community.size, dtype=torch.float64)
    for group in range(groups):
        for head, index in enumerate(_of_group(reader, group, groups)):
            read = weight[:, index]
            shares[group, head] = (read @ second[index][:, index] * read).sum()
    total = moved(tensors, community, shares)
    return total / total.sum().clamp_min(1e-300)


def moved(tensors: dict[str, Tensor], community: Community, worth: Tensor) -> Tensor:
    """Sort the members of each group by what they are worth, in place, the best first.

    Args:
        tensors: of the model, changed in place.
        community: whose members of one group may change places with all that is theirs.
        worth: ``[groups, size]``.

    Returns:
        What each place is worth then, summed over the groups, ``[size]``.
    """
    groups = len(worth)
    order = worth.argsort(dim=1, descending=True, stable=True)
    for part in community.slices:
        tensor = tensors[part.tensor]
        for group in range(groups):
            places = _of_group(part, group, groups)
            there = places[order[group]].reshape(-1).to(tensor.device)
            rows = tensor.index_select(part.axis, there)
            tensor.index_copy_(part.axis, places.reshape(-1).to(tensor.device), rows)
    return worth.gather(1, order).sum(0)


def why_not(community: Community) -> str:
    """Return why the heads of groups cannot change places, or nothing."""
    groups = num_groups(community)
    if any(s.index.shape[1] % groups for s in community.slices):
        return "a tensor holds its query heads otherwise than group by group"
    return "" if sum(s.role == "in" for s in community.slices) == 1 else "it is of several layers"


def _of_group(part: Slice, group: int, groups: int) -> Tensor:
    """Return the places of each query head of one group, ``[G, width]``."""
    width = part.index.shape[1] // groups
    return part.index[:, group * width : (group + 1) * width]
