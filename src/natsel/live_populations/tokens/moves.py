"""Who stays and where the others go: exact counts in every input, and masses that add."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Move:
    """What happens to the tokens of one block.

    Attributes:
        kept: the tokens that stay, ascending, ``[batch, kept]``.
        leaving: those that leave, ``[batch, leaving]``.
        hosts: where among the kept each goes that leaves, ``[batch, leaving]``; None if it is gone.
        shares: with which weight it goes there, ``[batch, leaving]``, and those of the kept,
            ``[batch, kept]``; None where each counts by its mass.
    """

    kept: Tensor
    leaving: Tensor
    hosts: Tensor | None = None
    shares: tuple[Tensor, Tensor] | None = None

    @property
    def adds_mass(self) -> bool:
        """Whether masses add: who merges lives on in its host."""
        return self.hosts is not None and self.shares is None

    def slots(self, num_tokens: int) -> Tensor:
        """Return where each token is afterwards, ``[batch, num_tokens]``; -1 where it is gone."""
        rows, kept = self.kept.shape
        index = torch.arange(kept, device=self.kept.device).expand(rows, -1)
        found = torch.full((rows, num_tokens), -1, dtype=torch.int64, device=self.kept.device)
        found.scatter_(1, self.kept, index)
        return found if self.hosts is None else found.scatter_(1, self.leaving, self.hosts)


def ranked(scores: Tensor, num_prefix: int) -> Tensor:
    """Return tokens from who leaves last to who leaves first; equals by index.

    Args:
        scores: ``[batch, tokens]``.
        num_prefix: how many of the first stay in any case.

    Example:
        >>> ranked(torch.tensor([[0.0, 1.0, 3.0, 3.0]]), 1)
        tensor([[0, 2, 3, 1]])
    """
    safe = torch.arange(scores.shape[1], device=scores.device) < num_prefix
    return scores.masked_fill(safe, torch.inf).argsort(dim=-1, descending=True, stable=True)


def dropped(scores: Tensor, num_leaving: int, num_prefix: int) -> Move:
    """Return the move by which the least fit are gone.

    Args:
        scores: ``[batch, tokens]``.
        num_leaving: how many.
        num_prefix: how many of the first stay in any case.

    Example:
        >>> move = dropped(torch.tensor([[0.0, 1.0, 3.0, 3.0, 2.0]]), 2, 1)
        >>> move.kept, move.leaving
        (tensor([[0, 2, 3]]), tensor([[4, 1]]))
    """
    order = ranked(scores, num_prefix)
    kept, leaving = order[:, :-num_leaving], order[:, -num_leaving:]
    return Move(kept.sort(-1).values, leaving)


def merged(scores: Tensor, hosts: Tensor, num_leaving: int, num_prefix: int) -> Move:
    """Return the move by which the least fit give their mass to hosts, who stay.

    Args:
        scores: ``[batch, tokens]``.
        hosts: of each token another that stays in any case, ``[batch, tokens]``.
        num_leaving: how many.
        num_prefix: how many of the first stay in any case.
    """
    move = dropped(scores, num_leaving, num_prefix)
    slots = move.slots(scores.shape[1])
    return Move(move.kept, move.leaving, slots.gather(1, hosts.gather(1, move.leaving)))


def nearest(scores: Tensor, keys: Tensor, num_leaving: int, num_prefix: int) -> Move:
    """Return the move by which the least fit give their mass to the survivor with the nearest key.

    The prefix takes none.

    Args:
        scores: ``[batch, tokens]``.
        keys: ``[batch, tokens, width]``, of length 1.
        num_leaving: how many.
        num_prefix: how many of the first stay in any case.
    """
    move = dropped(scores, num_leaving, num_prefix)
    near = rows_of(keys, move.leaving) @ rows_of(keys, move.kept[:, num_prefix:]).transpose(1, 2)
    return Move(move.kept, move.leaving, near.argmax(-1) + num_prefix)


def fused(scores: Tensor, num_leaving: int, num_prefix: int) -> Move:
    r"""Return the move by which the least fit become one token, as EViT does.

    It takes the place of the fittest among them, so that one more is fused than leaves:

    $$x' = \sum_j s_j x_j$$

    Args:
        scores: \(s\), ``[batch, tokens]``.
        num_leaving: how many.
        num_prefix: how many of the first stay in any case.
    """
    order = ranked(scores, num_prefix)
    kept, place = order[:, :-num_leaving].sort(-1).values, order[:, -num_leaving - 1 : -num_leaving]
    slot = (kept == place).long().argmax(-1, keepdim=True)
    leaving = order[:, -num_leaving:]
    stays = torch.where(kept == place, scores.gather(1, kept), 1.0)
    shares = (scores.gather(1, leaving), stays.to(scores.dtype))
    return Move(kept, leaving, slot.expand_as(leaving), shares)


def moved(features: Tensor, mass: Tensor | None, move: Move) -> tuple[Tensor, Tensor | None]:
    r"""Return features and masses after a move.

    $$m_i' = m_i + \sum_{j \to i} m_j, \qquad x_i' = \sum_{j \in \{i\} \cup \to i}
      \frac{m_j}{m_i'}\, x_j$$

    the law on the simplex: the sum of masses is conserved. Who takes nobody in is left bit for bit.

    Args:
        features: ``[batch, tokens, width]``.
        mass: ``[batch, tokens]``, whole numbers; None for 1.
        move: who goes where.

    Returns:
        ``[batch, kept, width]`` and ``[batch, kept]``.

    Example:
        >>> x, m = torch.tensor([[[0.0], [6.0], [3.0]]]), torch.tensor([[1, 1, 2]])
        >>> to = torch.tensor([[1]])
        >>> moved(x, m, Move(torch.tensor([[0, 1]]), torch.tensor([[2]]), to))
        (tensor([[[0.],
                 [4.]]]), tensor([[1, 3]]))
    """
    kept = rows_of(features, move.kept)
    if move.hosts is None:
        return kept, None if mass is None else mass.gather(1, move.kept)
    dtype = torch.promote_types(features.dtype, torch.float32)
    total = mass
    if move.shares is None:
        ones = torch.ones_like(move.leaving) if mass is None else mass.gather(1, move.leaving)
        own = torch.ones_like(move.kept) if mass is None else mass.gather(1, move.kept)
        total = own.scatter_add(1, move.hosts, ones)
        given = ones.to(dtype) / total.gather(1, move.hosts).to(dtype)
        left = own.to(dtype) / total.to(dtype)
    else:
        given, left = move.shares
    guests = rows_of(features, move.leaving).to(dtype).mul_(given[..., None].to(dtype))
    sums = kept.to(dtype).mul_(left[..., None].to(dtype))  # both are copies already
    where = _flat(move.hosts, sums.shape[1])
    added = sums.flatten(0, 1).index_add_(0, where, guests.flatten(0, 1))
    return added.reshape(sums.shape).to(features.dtype), total


def rows_of(features: Tensor, index: Tensor) -> Tensor:
    """Return the features of some tokens; whole rows are copied, which ``gather`` does not.

    Args:
        features: ``[batch, tokens, ...]``.
        index: ``[batch, some]``.

    Returns:
        ``[batch, some, ...]``.
    """
    found = features.flatten(0, 1).index_select(0, _flat(index, features.shape[1]))
    return found.reshape(*index.shape, *features.shape[2:])


def _flat(index: Tensor, num_tokens: int) -> Tensor:
    first = torch.arange(0, index.shape[0] * num_tokens, num_tokens, device=index.device)
    return (index + first[:, None]).flatten()
