"""A threshold on the router's own share: a token keeps as many experts as it wants."""

from __future__ import annotations

from torch import Tensor

from natsel.live_populations.experts.choices import Choices


def below(choices: Choices, *, level: float = 0.5) -> Tensor:
    """Return which choices have less than a share of the mass of their token's fittest.

    Args:
        choices: of a layer.
        level: relative to the fittest, in [0, 1].

    Source:
        X. Lu et al., Not All Experts are Equal: Efficient Expert Pruning and Skipping for
        Mixture-of-Experts Large Language Models, ACL 2024.
    """
    shares = choices.shares
    return shares < level * shares.amax(-1, keepdim=True)
