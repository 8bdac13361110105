"""From a mask over the whole input to the places that each head holds."""

from __future__ import annotations

import torch
from torch import Tensor

from natsel.common.errors import refuse


def padded_of(mask: Tensor | None, num_new: int) -> Tensor | None:
    """Return which of the new tokens not even the last query sees: padding.

    Args:
        mask: over the whole input, ``[batch, heads or 1, queries, tokens]``, boolean or to be
            added; None for none.
        num_new: tokens that are new.

    Returns:
        ``[batch, new]``, or None if there is no padding.

    Example:
        >>> mask = torch.tensor([[[[False, False], [False, True]]]])
        >>> padded_of(mask, 2)
        tensor([[ True, False]])
    """
    if mask is None:
        return None
    last = mask[:, :, -1, -num_new:]
    padded = ~visible(last).any(1)
    return padded if bool(padded.any()) else None


def visible(mask: Tensor) -> Tensor:
    """Return where a mask lets attention through."""
    if mask.dtype == torch.bool:
        return mask
    return mask > torch.finfo(mask.dtype).min / 2


def taken(
    mask: Tensor | None,
    places: Tensor,
    num_query_heads: int,
    *,
    tokens: int,
    dtype: torch.dtype,
    mass: Tensor | None = None,
) -> Tensor | None:
    """Return the mask for the places that heads hold.

    Args:
        mask: over the whole input, ``[batch or 1, heads or 1, queries, tokens]``.
        places: position of each entry in the input, -1 for nobody, ``[batch, heads, entries]``.
        num_query_heads: how many heads of queries there are.
        tokens: of the whole input.
        dtype: of the queries, for what is added to logits.
        mass: of each entry, whose logarithm is added to the logits; None for 1.

    Returns:
        ``[batch, query heads, queries, entries]`` of the given kind, boolean or to be added; None
        if nothing is hidden and nothing added.

    Example:
        >>> mask = torch.ones(1, 1, 2, 4, dtype=torch.bool).tril(2)
        >>> places = torch.tensor([[[0, 3], [1, -1]]])
        >>> taken(mask, places, 2, tokens=4, dtype=torch.float32)[0]
        tensor([[[ True, False],
                 [ True,  True]],
        <BLANKLINE>
                [[ True, False],
                 [ True, False]]])
    """
    empty = places < 0
    if mask is None:
        if mass is None and not bool(empty.any()):
            return None
        mask = torch.ones(1, 1, 1, tokens, dtype=torch.bool, device=places.device)
    if mask.shape[-1] != tokens:
        refuse("attention_mask", mask, f"a mask over all {tokens} tokens of the input")
    batch, heads, entries = places.shape
    group = num_query_heads // heads
    if mask.shape[1] not in (1, num_query_heads):
        refuse("attention_mask", mask, f"a mask for 1 or {num_query_heads} heads")
    wide = mask.shape[1] != 1
    index = places.clamp(min=0).long()
    nobody = empty
    if wide:
        index, nobody = (x.repeat_interleave(group, 1) for x in (index, empty))
    rows = mask.expand(batch, index.shape[1], -1, -1)
    shape = (*index.shape[:2], mask.shape[-2], entries)
    found = rows.gather(-1, index[:, :, None].expand(shape))
    nobody = nobody[:, :, None].expand(shape)
    if found.dtype == torch.bool:
        found = found & ~nobody
    else:
        found = found.masked_fill(nobody, torch.finfo(found.dtype).min)
    if not wide:
        found = found.repeat_interleave(group, 1)
    if mass is None:
        return found
    bias = mass.log().to(dtype).repeat_interleave(group, 1)[:, :, None]
    if found.dtype != torch.bool:
        return torch.where(visible(found), found + bias, found)
    # Not -inf: a row that sees nothing, of padding, has to stay finite.
    return torch.where(found, bias, torch.finfo(dtype).min)


def everybody(mask: Tensor | None, places: Tensor, num_query_heads: int, tokens: int) -> Tensor:
    """Return the mask over the whole input that hides who would have left.

    Args:
        mask: over the whole input, or None.
        places: of who stays, ``[batch, heads, entries]``.
        num_query_heads: how many heads of queries there are.
        tokens: of the whole input.

    Returns:
        ``[batch, query heads, queries, tokens]``.

    Example:
        >>> everybody(None, torch.tensor([[[0, 3, -1]]]), 1, 4)
        tensor([[[[ True, False, False,  True]]]])
    """
    batch, heads, _ = places.shape
    here = torch.zeros(batch, heads, tokens + 1, dtype=torch.bool, device=places.device)
    index = torch.where(places < 0, tokens, places).long()
    here = here.scatter_(-1, index, torch.ones_like(index, dtype=torch.bool))[..., :tokens]
    here = here.repeat_interleave(num_query_heads // heads, 1)[:, :, None]
    if mask is None:
        return here
    if mask.dtype == torch.bool:
        return mask & here
    return torch.where(here, mask, torch.finfo(mask.dtype).min)
