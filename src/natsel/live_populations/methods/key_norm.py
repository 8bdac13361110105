"""Short keys are attended most."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.live_populations.entries import Entries


def key_norm(entries: Entries) -> Tensor:
    r"""Return \(-\lVert k_j \rVert_2\), in at least float32, so that half precision makes no ties.

    Source:
        A. Devoto et al., A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression,
        EMNLP 2024.
    """
    dtype = torch.promote_types(entries.keys.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(entries.keys, dim=-1, dtype=dtype)
    return -norm
