"""Merging instead of dropping: who leaves gives its mass to the nearest that stays."""

from __future__ import annotations

import torch
from torch import Tensor


def merged(
    keys: Tensor, values: Tensor, mass: Tensor, keep: Tensor, leaving: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Merge each leaving entry into the survivor whose key points most nearly the same way.

    $$m_i' = m_i + \sum_{j \to i} m_j, \qquad
      k_i' = \frac{m_i k_i + \sum_{j \to i} m_j k_j}{m_i'}$$

    and the same for the values: the law on the simplex, where the sum of masses is conserved. The
    logarithm of the mass is added to the logits, so that entries with equal keys merge exactly.

    Args:
        keys: ``[batch, heads, n, width]``.
        values: ``[batch, heads, n, width]``.
        mass: ``[batch, heads, n]``.
        keep: who stays, ``[batch, heads, n]``.
        leaving: who leaves and is merged, ``[batch, heads, n]``.

    Returns:
        Keys, values and masses after merging, of the same shapes; those of who left are as before.

    Example:
        >>> keys = torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]]])
        >>> values = torch.tensor([[[[5.0], [1.0], [3.0]]]])
        >>> keep = torch.tensor([[[True, True, False]]])
        >>> _, values, mass = merged(keys, values, torch.ones(1, 1, 3), keep, ~keep)
        >>> values[..., 0], mass
        (tensor([[[5., 2., 3.]]]), tensor([[[1., 2., 1.]]]))
    """
    dtype = torch.promote_types(keys.dtype, torch.float32)
    wide = keys.to(dtype)
    unit = wide / wide.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
    near = (unit @ unit.transpose(-1, -2)).masked_fill(~keep[..., None, :], -torch.inf)
    host = near.argmax(-1)  # [batch, heads, n], of equals the first
    index = torch.arange(keep.shape[-1], device=keep.device).expand_as(host)
    host = torch.where(leaving, host, index)
    mass = mass.to(dtype)
    total = torch.zeros_like(mass).scatter_add_(-1, host, mass)

    def mean(x: Tensor) -> Tensor:
        where = host[..., None].expand(x.shape)
        summed = torch.zeros_like(x, dtype=dtype)
        summed = summed.scatter_add_(-2, where, mass[..., None] * x.to(dtype))
        # Who received nothing is left bit for bit as it was.
        grown = (keep & (total > mass))[..., None]
        return torch.where(grown, (summed / total.clamp(min=1e-30)[..., None]).to(x.dtype), x)

    return mean(keys), mean(values), torch.where(keep, total, mass)
