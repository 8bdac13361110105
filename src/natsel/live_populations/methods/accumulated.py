"""Attention received from all queries so far."""

from __future__ import annotations

from torch import Tensor

from natsel.live_populations.entries import Entries


def accumulated(entries: Entries) -> Tensor:
    """Return the sum of attention since an entry was born: the heavy hitters stay.

    Source:
        Z. Zhang et al., H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large
        Language Models, NeurIPS 2023.
    """
    received = entries.remembered("received", born=0.0) + entries.received()
    entries.memory["received"] = received
    return received
