"""The newest entries, beside the first as sinks."""

from __future__ import annotations

from torch import Tensor

from natsel.live_populations.entries import Entries


def newest(entries: Entries) -> Tensor:
    """Return the position in the input: the oldest leave first.

    With sinks this is StreamingLLM, but that positions stay those of the input.

    Source:
        G. Xiao et al., Efficient Streaming Language Models with Attention Sinks, ICLR 2024.
    """
    return entries.positions.double()
