r"""What removing populations *together* does to their consumers.

Without the set R, the output of a linear consumer changes by $\sum_{i \in R} w_i h_i$. Its mean
square is $\mathbf{1}_R^T G \mathbf{1}_R$ with $G_{ij} = \langle w_i, w_j \rangle E[h_i h_j]$: two
populations that say the same thing cost more than twice what one costs, two that cancel cost less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.fitness.registry import Fitness, Part, Parts, register

PIECE = 1 << 22
"""Numbers of a weight that are held in float64 at a time."""


def interaction(part: Part) -> Tensor:
    """Return G of one consumer: ``[size, size]``, float64.

    Of a convolution, products of different places of its kernel are left out.
    """
    assert part.activation is not None
    pairs = inner_products(part.weight.movedim(part.axis, 0).flatten(1))
    pairs = pairs * part.activation.double() if part.activation.dim() == 2 else 0 * pairs
    if part.whole:
        return pairs
    size, width = part.index.shape
    flat = part.index.reshape(-1)
    return pairs[flat][:, flat].reshape(size, width, size, width).sum((1, 3))


def inner_products(rows: Tensor) -> Tensor:
    """Return the inner products of all pairs of rows, ``[n, n]`` in float64.

    Of long rows, some numbers take their turn at a time: the head of a language model has as many
    in each as there are words.

    Example:
        >>> inner_products(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        tensor([[5., 2.],
                [2., 1.]], dtype=torch.float64)
    """
    result = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for piece in torch.split(rows, max(PIECE // len(rows), 1), dim=1):
        wide = piece.double()
        result.addmm_(wide, wide.T)
    return result


def elimination(g: Tensor) -> tuple[Tensor, Tensor]:
    r"""Remove populations one by one, each time the one that adds least to the change.

    Removing i after the set R adds $G_{ii} + 2 \sum_{j \in R} G_{ij}$.

    Args:
        g: symmetric and positive semidefinite, ``[n, n]``.

    Returns:
        The order in which they go, int64 ``[n]``, and what each added, ``[n]``.

    Example:
        >>> elimination(torch.tensor([[1.0, -0.9, 0.0], [-0.9, 1.0, 0.0], [0.0, 0.0, 0.5]]))[0]
        tensor([2, 0, 1])
    """
    n = len(g)
    added = g.diagonal().clone()
    left = torch.ones(n, dtype=torch.bool, device=g.device)
    order, costs = [], []
    for _ in range(n):
        i = int(torch.where(left, added, torch.inf).argmin())
        order.append(i)
        costs.append(added[i])
        left[i] = False
        added = added + 2 * g[i]
    return torch.tensor(order, device=g.device), torch.stack(costs)


def joint(parts: Parts) -> Tensor:
    """Return what the consumers lose by each population once the less fit are gone: ``[size]``.

    The largest root mean square change that any removal up to this one added: a score whose order
    is the order of elimination.
    """
    g = interaction(parts.consumers[0])
    for part in parts.consumers[1:]:
        g += interaction(part)
    g *= parts.mass.double().outer(parts.mass.double())
    return descending(*elimination(g))


def descending(order: Tensor, costs: Tensor) -> Tensor:
    """Return scores whose order is an order of elimination: the root of the largest cost so far.

    Args:
        order: in which populations go, int64 ``[n]``.
        costs: of each step, ``[n]``, float64.

    Example:
        >>> descending(torch.tensor([1, 0]), torch.tensor([4.0, 1.0]).double()).argsort().tolist()
        [1, 0]
    """
    n = len(order)
    # Steps that added less than an earlier one follow it by a hair: the order stays, in float32.
    hair = 1 + 1e-3 * torch.arange(n, device=costs.device, dtype=torch.float64) / n
    scores = torch.empty_like(costs)
    scores[order] = costs.clamp_min(0).cummax(0).values.sqrt() * hair
    return scores


register(Fitness("joint", joint, statistic="products"))
