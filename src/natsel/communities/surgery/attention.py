"""An ``nn.MultiheadAttention`` whose heads together need not be as wide as its input.

Legend: B samples, T target tokens, S source tokens, E embedding, H heads, d width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HeadwiseAttention(nn.MultiheadAttention):
    """Attention with H heads of width d, where H d may differ from E.

    torch derives the width of a head from E, so a module that lost heads cannot run there. This
    class takes its place, with the same parameters by the same names; :meth:`follow` puts it there.
    """

    @staticmethod
    def follow(module: nn.MultiheadAttention) -> None:
        """Let a module follow the number of heads that its weights hold, in place.

        Raises:
            ValueError: if the module appends to its keys and values, which has no such form here.
        """
        packed = module.in_proj_weight is not None
        weight = module.in_proj_weight if packed else module.q_proj_weight
        rows = weight.shape[0] // 3 if packed else weight.shape[0]
        embed_dim = module.out_proj.weight.shape[0]
        # Their number may have been set before: torch's own case is that their width is all of it.
        if rows == module.num_heads * module.head_dim == embed_dim == module.embed_dim:
            return
        if module.bias_k is not None or module.add_zero_attn:
            raise ValueError("add_bias_kv and add_zero_attn are not adapted to fewer heads")
        module.num_heads = rows // module.head_dim
        module.embed_dim = embed_dim
        module.kdim = (weight if packed else module.k_proj_weight).shape[1]
        module.vdim = (weight if packed else module.v_proj_weight).shape[1]
        module.__class__ = HeadwiseAttention
        # Makes the fused paths of the layers around it, which know nothing of it, step aside.
        module._qkv_same_embed_dim = False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as ``nn.MultiheadAttention`` does; its documentation explains the arguments."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q_BHTd, k_BHSd, v_BHSd = (self._heads(x) for x in self._project(query, key, value))
        mask = self._mask(q_BHTd, k_BHSd, key_padding_mask, attn_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q_BHTd @ k_BHSd.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            y_BHTd = F.dropout(weights, dropout) @ v_BHSd
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            y_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHSd, v_BHSd, mask, dropout)
        y = self.out_proj(y_BHTd.transpose(1, 2).flatten(2))
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        if self.in_proj_weight is not None:
            parts = list(self.in_proj_weight.chunk(3))
        else:
            parts = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        biases = [None] * 3 if self.in_proj_bias is None else list(self.in_proj_bias.chunk(3))
        entering = (query, key, value)
        return [F.linear(x, w, b) for x, w, b in zip(entering, parts, biases, strict=True)]

    def _heads(self, x: Tensor) -> Tensor:
        split = x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)
        return split.transpose(1, 2)

    def _mask(
        self, q_BHTd: Tensor, k_BHSd: Tensor, padding: Tensor | None, mask: Tensor | None
    ) -> Tensor | None:
        """Return what is added to the scores, broadcastable to ``[B, H, T, S]``."""
        found: Tensor | None = None
        if mask is not None:
            found = _additive(mask, q_BHTd)
            if found.dim() == 3:
                found = found.reshape(q_BHTd.shape[0], -1, *found.shape[1:])
        if padding is not None:
            extra = _additive(padding, q_BHTd).reshape(-1, 1, 1, k_BHSd.shape[2])
            found = extra if found is None else found + extra
        return found


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    zeros = torch.zeros(mask.shape, dtype=like.dtype, device=mask.device)
    return zeros.masked_fill_(mask, float("-inf"))
