"""Attention of the class token."""

from __future__ import annotations

from torch import Tensor

from natsel.live_populations.tokens.tokens import Tokens


def class_attention(tokens: Tokens) -> Tensor:
    """Return the attention that the class token gives to each, averaged over heads.

    Source:
        Y. Liang et al., Not All Patches are What You Need: Expediting Vision Transformers via
        Token Reorganizations, ICLR 2022 (EViT).
    """
    return tokens.of_class()
