"""What it takes to say the prompt again: attention from a second reading."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.live_populations.entries import Entries


def kvzip(entries: Entries, *, values: bool = False) -> Tensor:
    r"""Return the most attention that an entry got from one query of a second reading.

    The tokens of a prompt are read again behind it, and \(\max_q a_{qj}\) over queries and the
    query heads of a head is what a decoder needs of entry j to say them: no question is known, and
    each may come. A head that never looks far back needs few entries, one that retrieves needs all:
    so heads share a budget, and their scores are compared as they are. Tokens that come one by one
    are not read again; of them counts what the later ones give.

    Args:
        entries: of a layer.
        values: whether it is weighed by the size of the value that an entry brings.

    Source:
        J.-H. Kim et al., KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction,
        NeurIPS 2025, which puts a sentence between the readings.
    """
    most = entries.remembered("most", born=0.0)
    if entries.reread is not None:
        most = torch.maximum(most, entries.reread)
    if entries.num_new == 1:
        itself = entries.positions == entries.query_positions[:, -1, None, None]
        for weights in entries.in_time():
            most = torch.maximum(most, weights.amax((2, 3)).masked_fill(itself, 0.0))
    entries.memory["most"] = most
    if not values:
        return most
    size: Tensor = torch.linalg.vector_norm(entries.values, dim=-1, dtype=most.dtype)
    return most * size
