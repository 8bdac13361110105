"""What heads of a scan meet: a number of each head, and products that all heads share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from natsel.communities.kinds import HEAD
from natsel.communities.labels.labels import DATA, NONE, narrowed

if TYPE_CHECKING:
    from natsel.communities.labels.propagation import Propagation

SHARED = "all heads share it, and it stays for those that are left"


def are_of_one_layer(run: Propagation, few: Tensor, many: Tensor) -> bool:
    """Tell whether one layer makes a number of each head, and all that it is repeated over.

    A layer of a state-space scan makes the steps of all heads beside what they scan: each step
    meets the numbers of its own head, as many as the others do, and goes with them.

    Args:
        run: the propagation.
        few: labels that are repeated over several others.
        many: those others, of as many axes.
    """
    few, many = (narrowed(run.space.roots(x)) for x in (few, many))
    over = [i for i in range(few.dim()) if few.shape[i] == 1 and many.shape[i] > 1]
    heads = torch.unique(few[few != NONE])
    if len(over) != 1 or len(heads) < 2 or not bool((heads > DATA).all()):
        return False
    shape = torch.Size(np.broadcast_shapes(few.shape, many.shape))
    pairs = torch.stack((few.expand(shape), many.expand(shape))).reshape(2, -1)
    pairs = torch.unique(pairs[:, (pairs != NONE).all(0)], dim=1)
    meets = torch.unique(pairs[0], return_counts=True)[1]
    apart = pairs.shape[1] == len(torch.unique(pairs[1])) and bool((meets == meets[0]).all())
    if not apart or not bool((pairs[1] > DATA).all()):
        return False
    return any(
        "out" in run.roles[key] and _holds(made, heads) and _holds(made, pairs[1])
        for key, labels in run.axis_labels.items()
        if len(made := run.space.roots(labels)) > len(heads)
    )


def _holds(made: Tensor, classes: Tensor) -> bool:
    return bool(torch.isin(classes, made).all())


def without_shared(run: Propagation, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return two factors with plain data in place of a product that all heads of the other share.

    What a scan writes and reads by is one for all heads, as keys are in multi-query attention:
    heads can go one by one, and it stays for those that are left.

    Args:
        run: the propagation.
        a: labels of one factor.
        b: labels of the other.
    """
    if not (marked := run.marked.get(HEAD.name)):
        return a, b
    for shared, heads in ((a, b), (b, a)):
        met = narrowed(run.space.roots(shared))
        met = met[met != NONE]
        if not met.numel() or int(met.min()) <= DATA or not bool((met == met.max()).all()):
            continue
        mine, others = met.max(), torch.unique(run.space.roots(narrowed(heads)))
        others = others[others != NONE]
        if len(others) < 2 or int(others.min()) <= DATA or bool((others == mine).any()):
            continue
        if bool((run.space.roots(torch.cat(marked)) == mine).any()):
            run.space.fix(mine.reshape(1), SHARED)
            data = torch.full((), DATA, dtype=torch.int64).expand(shared.shape)
            return (data, b) if shared is a else (a, data)
    return a, b
