"""The length of the keys: a control."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.live_populations.tokens.tokens import Tokens


def key_norm(tokens: Tokens) -> Tensor:
    r"""Return \(-\lVert k_j \rVert_2\), averaged over heads, in at least float32.

    Source:
        A. Devoto et al., A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression,
        EMNLP 2024, of a decoder's cache.
    """
    dtype = torch.promote_types(tokens.keys.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(tokens.keys, dim=-1, dtype=dtype)
    return -norm.mean(1)
