"""The router's own share: who it gives little to leaves."""

from __future__ import annotations

from torch import Tensor

from natsel.live_populations.experts.choices import Choices


def router(choices: Choices) -> Tensor:
    """Return the mass of each choice in its token: the router's weights, of sum 1.

    Example:
        >>> from natsel.live_populations import EXPERT_METHODS
        >>> EXPERT_METHODS["router"].score is router
        True
    """
    return choices.shares
