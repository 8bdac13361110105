"""What a method sees: which experts the tokens of a call chose, and how much of each."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Choices:
    """The choices of one call of a layer: each token is a community of the experts it chose.

    Scores have the shape of ``shares``: ``[tokens, chosen]``, higher is fitter.

    Attributes:
        weights: what the router gives to each choice, ``[tokens, chosen]``.
        experts: which expert it is, ``[tokens, chosen]``.
        hidden_states: what the experts read, ``[tokens, width]``.
        alive: which tokens are no padding, ``[tokens]``.
        layer: which one it is.
        generator: the only source of chance.
    """

    weights: Tensor
    experts: Tensor
    hidden_states: Tensor
    alive: Tensor
    layer: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator)

    @property
    def shares(self) -> Tensor:
        """The mass of each choice in its token: the router's weights, of sum 1.

        Example:
            >>> yes, none = torch.ones(1, dtype=torch.bool), torch.zeros(1, 0)
            >>> Choices(torch.tensor([[0.3, 0.1]]), torch.tensor([[5, 2]]), none, yes).shares
            tensor([[0.7500, 0.2500]])
        """
        dtype = torch.promote_types(self.weights.dtype, torch.float32)
        weights = self.weights.detach().to(dtype)
        total = weights.sum(-1, keepdim=True)
        return torch.where(total > 0, weights / total, 1 / weights.shape[-1])
