"""``nn.MultiheadAttention``, taken apart so that its queries, keys and values are seen."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from natsel.common.errors import refuse

MULTIHEAD = F.multi_head_attention_forward
"""What the module calls while somebody looks on; otherwise it is one closed operator."""

_SIGNATURE = inspect.signature(MULTIHEAD)
_NOTHING = ("bias_k", "bias_v", "key_padding_mask", "attn_mask", "static_k", "static_v")


def multihead(
    told: str, attend: Callable[..., Tensor], *args: Any, **kwargs: Any
) -> tuple[Tensor, bool | None]:
    """Return what the module gives, by an attention that is asked instead of its own.

    Args:
        told: what to call the block in messages.
        attend: as ``scaled_dot_product_attention``.
        args: of the functional form, tokens first: ``[tokens, batch, width]``.
        kwargs: the same, by name.

    Returns:
        ``[tokens, batch, width]``, and whether its weights are asked for as an average over heads;
        None where they are not.

    Raises:
        ValueError: if it is more than attention among the tokens of an input.
    """
    bound = _SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    allowed = "nn.MultiheadAttention among the tokens of a batch, without masks"
    query, key, value = (given[name] for name in ("query", "key", "value"))
    if not (query is key and key is value) or query.dim() != 3:
        refuse("model", f"{told}, whose queries, keys and values are of different tokens", allowed)
    found = next((name for name in _NOTHING if given[name] is not None), None)
    for name in ("add_zero_attn", "is_causal", "use_separate_proj_weight"):
        found = name if given[name] else found
    if found is not None:
        refuse("model", f"{told}, which is called with {found}", allowed)
    tokens, batch, width = query.shape
    heads = given["num_heads"]
    each = F.linear(query, given["in_proj_weight"], given["in_proj_bias"]).chunk(3, -1)
    q, k, v = (x.reshape(tokens, batch, heads, width // heads).permute(1, 2, 0, 3) for x in each)
    dropout = given["dropout_p"] if given["training"] else 0.0
    mixed = attend(q, k, v, None, dropout).permute(2, 0, 1, 3).reshape(tokens, batch, width)
    out = F.linear(mixed, given["out_proj_weight"], given["out_proj_bias"])
    return out, bool(given["average_attn_weights"]) if given["need_weights"] else None
