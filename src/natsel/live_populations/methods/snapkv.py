"""Attention received from the last window of queries."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from natsel.common.errors import refuse
from natsel.common.numbers import is_whole
from natsel.live_populations.entries import Entries


def snapkv(entries: Entries, *, kernel: int = 5) -> Tensor:
    """Return the mean attention from the newest ``window`` queries, smoothed over neighbours.

    Who is among the newest stays in any case, and smooths nobody.

    Args:
        entries: of a layer.
        kernel: an odd number of neighbours that are averaged; 1 for none.

    Source:
        Y. Li et al., SnapKV: LLM Knows What You Are Looking for Before Generation, NeurIPS 2024.
        The mean over the query heads of a group follows its reference code.
    """
    if not is_whole(kernel) or kernel % 2 == 0:
        refuse("kernel", kernel, "an odd whole number")
    received = entries.received(window=True).masked_fill(~entries.alive | entries.newest, 0.0)
    return F.avg_pool1d(received, kernel, stride=1, padding=kernel // 2)
