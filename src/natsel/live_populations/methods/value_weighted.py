"""Attention times the size of the value that it brings."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.live_populations.entries import Entries


def value_weighted(entries: Entries) -> Tensor:
    r"""Return \(\lVert v_j \rVert_1 \sum_q a_{qj}\) over the newest ``window`` queries.

    Source:
        Z. Guo et al., Attention Score is not All You Need for Token Importance Indicator in KV
        Cache Reduction: Value Also Matters, EMNLP 2024.
    """
    dtype = torch.promote_types(entries.values.dtype, torch.float32)
    size: Tensor = torch.linalg.vector_norm(entries.values, ord=1, dim=-1, dtype=dtype)
    return entries.received(window=True) * size
