"""What a scorer of tokens sees: the live populations of one block of a vision transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from natsel.common.errors import refuse


class Merges(NamedTuple):
    """Scores, and who would take the mass of a token that leaves.

    Attributes:
        scores: ``[batch, tokens]``, higher is fitter; infinity for who stays in any case.
        hosts: the index of a token that stays in any case, ``[batch, tokens]``.
    """

    scores: Tensor
    hosts: Tensor


@dataclass
class Attended:
    """What the attention of a block was computed from.

    Attributes:
        weights: gives the attention of some queries, ``[batch, heads, queries, tokens]``.
        keys: ``[batch, heads, tokens, width]``, or None where they are not seen.
        queries: ``[batch, heads, tokens, width]``, or None where they are not seen.
    """

    weights: Callable[[slice], Tensor]
    keys: Tensor | None
    queries: Tensor | None


@dataclass
class Tokens:
    """The tokens of one block, between its attention and its perceptron: one community an input.

    Scores have the shape ``[batch, tokens]``, higher is fitter. Those of the first ``num_prefix``
    tokens are ignored: they stay.

    Attributes:
        features: the residual stream, ``[batch, tokens, width]``.
        mass: how many places each token stands for, ``[batch, tokens]``; None for 1.
        num_prefix: how many of the first tokens stand for no place: class token, distillation
            token, registers.
        has_class: whether the very first one is what the classifier reads.
        num_leaving: how many have to leave now.
        block: which one it is; -1 before the first.
        generator: the only source of chance.
        attended: what the attention was computed from; None before the first block.
    """

    features: Tensor
    mass: Tensor | None
    num_prefix: int
    has_class: bool
    num_leaving: int
    block: int
    generator: torch.Generator
    attended: Attended | None = field(repr=False)

    @property
    def keys(self) -> Tensor:
        """Return ``[batch, heads, tokens, width]``; before the first block the tokens themselves.

        Raises:
            ValueError: if attention is written in a way that does not show them.
        """
        if self.attended is None:
            return self.features[:, None]
        return _shown(self.attended.keys, "keys")

    @property
    def queries(self) -> Tensor:
        """Return ``[batch, heads, tokens, width]``.

        Raises:
            ValueError: if attention is written in a way that does not show them.
        """
        return _shown(self._attention().queries, "queries")

    def unit_keys(self) -> Tensor:
        """Return the keys, averaged over heads, at length 1: ``[batch, tokens, width]``.

        Raises:
            ValueError: if attention is written in a way that does not show them.
        """
        keys = self.keys
        # Head by head: a mean over a dimension in the middle takes more than twice as long.
        total = reduce(torch.add, keys.to(torch.promote_types(keys.dtype, torch.float32)).unbind(1))
        return F.normalize(total, dim=-1)

    def of_class(self) -> Tensor:
        """Return the attention of the class token, averaged over heads, ``[batch, tokens]``.

        Raises:
            ValueError: if there is no class token.
        """
        if not self.has_class:
            refuse("model", "a model without a class token", "one that has it, for this method")
        return self._attention().weights(slice(0, 1)).mean(1)[:, 0]

    def received(self) -> Tensor:
        """Return the attention that each token receives, averaged over heads and queries.

        Queries count with their mass.

        Returns:
            ``[batch, tokens]``.
        """
        weights = self._attention().weights(slice(None)).mean(1)
        if self.mass is None:
            return weights.mean(1)
        share = (self.mass / self.mass.sum(-1, keepdim=True)).to(weights.dtype)
        return (share[:, None] @ weights)[:, 0]

    def _attention(self) -> Attended:
        if self.attended is None:
            refuse("blocks", self.block, "blocks from 0 on: before the first there is no attention")
        return self.attended


def _shown(value: Tensor | None, what: str) -> Tensor:
    if value is None:
        told = f"attention that does not show its {what}"
        refuse("model", told, "scaled_dot_product_attention, or a product of matrices and softmax")
    return value
