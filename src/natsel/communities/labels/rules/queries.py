"""Query heads that share keys and values: they can go, and what they share stays.

A head of keys and values is read by a group of query heads, and tensors are rectangles: every
group keeps as many. So the query heads at one place of all groups are one population, as the
filters at one place of all groups of a grouped convolution are. With one head of keys and values
(multi-query attention) a population is one query head.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from natsel.communities.kinds import QUERY
from natsel.communities.labels.labels import DATA
from natsel.communities.labels.propagation import Propagation

SHARED = "the query heads that read it go one by one, and it stays for those that are left"


def query_heads(run: Propagation, queries: Tensor, *shared: Tensor) -> Tensor | None:
    """Unite the query heads at one place of all groups, and fix what each group shares.

    It is done where all query heads share the same keys and values, and where there are several
    groups of as many if query heads are asked for.

    Args:
        run: the propagation.
        queries: labels of heads, ``[..., 1, 1]``.
        shared: labels of the heads of keys, of values, or both, of shapes that broadcast.

    Returns:
        The labels of the query heads; None where they go with their keys and values.
    """
    shape = torch.Size(np.broadcast_shapes(queries.shape, *(s.shape for s in shared)))
    readers = run.space.roots(queries.expand(shape)).reshape(-1)
    groups: list[list[list[int]]] = []
    for held in shared:
        owners = run.space.roots(held.expand(shape)).reshape(-1)
        found: dict[int, dict[int, None]] = {}
        for owner, reader in zip(owners.tolist(), readers.tolist(), strict=True):
            found.setdefault(owner, {})[reader] = None
        if found.keys() & set(readers.tolist()):
            return None
        groups.append([list(members) for members in found.values()])
        if min(found) <= DATA or len({len(members) for members in found.values()}) > 1:
            return None
    first = groups[0]
    if int(readers.min()) <= DATA or len(first[0]) < 2 or any(g != first for g in groups):
        return None
    if len(first) > 1 and not run.query_heads:
        return None
    for held in shared:
        run.space.fix(held, SHARED)
    placed = torch.tensor(first)
    run.space.unite(placed[:1].expand_as(placed), placed, "it meets plain data")
    run.mark(queries, QUERY.name)
    return queries.expand(shape)
