"""How attention gets its queries, keys and values, and splits them into heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .counts import HeadCount

Count = Callable[[], int]


class Projections(HeadCount):
    """The first half of an attention. ``count`` asks for the heads only where it is called."""

    def projected(self, x: Tensor, count: Count) -> tuple[Tensor, Tensor, Tensor]:
        way = self.way
        if way.project == "per head":
            return tuple(torch.einsum("btc,hcd->bhtd", x, w) for w in (self.q, self.k, self.v))
        if way.project == "separate":
            parts = [self.q(x), self.k(x), self.v(x)]
        elif way.project == "q and kv":
            parts = [self.q(x), *self.kv(x).chunk(2, -1)]
        elif way.project == "weights":
            parts = [F.linear(x, w) for w in self.in_proj_weight.chunk(3)]
        elif way.project == "convolution":
            parts = [t.transpose(1, 2) for t in self.qkv(x.transpose(1, 2)).chunk(3, 1)]
        else:
            y = self.qkv(x)
            third = y.shape[-1] // 3
            if way.project in ("3hd", "3hd permuted", "h3d", "h3d chunk", "hd3"):
                return self._interleaved(y, x, count)
            if way.project == "chunk":
                parts = list(y.chunk(3, -1))
            elif way.project == "slice third":
                parts = [y[..., :third], y[..., third : 2 * third], y[..., 2 * third :]]
            else:
                parts = list(y.split(self.inner if way.project == "split inner" else third, -1))
        if way.query == "whole norm":
            parts[:2] = [self.q_norm(parts[0]), self.k_norm(parts[1])]
        return tuple(
            self._split(t, x, count, 1 if i == 0 else way.group) for i, t in enumerate(parts)
        )

    def _interleaved(self, y: Tensor, x: Tensor, count: Count) -> tuple[Tensor, ...]:
        B, T, _ = x.shape
        project, H = self.way.project, count()
        D = self._dim(y, x, count, 3)
        if project == "3hd permuted":
            return y.reshape(B, T, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)
        if project == "3hd":
            return tuple(t.transpose(1, 2) for t in y.reshape(B, T, 3, H, D).unbind(2))
        if project == "h3d":
            return tuple(t.transpose(1, 2) for t in y.view(B, T, H, 3, D).unbind(3))
        if project == "h3d chunk":
            D = D if D < 0 else 3 * D
            return tuple(t.transpose(1, 2) for t in y.view(B, T, H, D).chunk(3, -1))
        return tuple(t.transpose(1, 2) for t in y.view(B, T, H, D, 3).unbind(-1))

    def _dim(self, t: Tensor, x: Tensor, count: Count, share: int) -> int:
        """Return the width of a head as the way finds it; t is ``share`` times as wide as q."""
        split = self.way.split
        if split in ("tensor", "permuted"):
            return t.shape[-1] // share // count()
        if split in ("dim", "count from dim", "pieces"):
            return self.dim
        if split == "inner":
            return self.inner // count()
        if split == "config":
            return self.config.head_dim
        if split == "weight":
            return self.o.weight.shape[1] // count()
        if split == "width":
            return x.shape[-1] // count()
        return -1

    def _split(self, t: Tensor, x: Tensor, count: Count, group: int) -> Tensor:
        """Return ``[B, T, inner]`` as ``[B, heads, T, dim]``."""
        split, (B, T, _) = self.way.split, x.shape
        if split == "count from dim":
            return t.reshape(B, T, -1, self.dim).transpose(1, 2)
        if split == "pieces":
            return torch.stack(t.split(self.dim, -1), 1)
        H = count() // group
        if split == "unflatten":
            return t.unflatten(-1, (H, -1)).transpose(1, 2)
        if split == "chunks":
            return torch.stack(t.chunk(H, -1), 1)
        if split == "loop":
            return torch.stack([t[..., i * self.dim : (i + 1) * self.dim] for i in range(H)], 1)
        if split == "tensor":
            return t.reshape(B, T, H, t.shape[-1] // H).transpose(1, 2)
        D = self._dim(t, x, count, 1)
        if split == "permuted":
            return t.reshape(B, T, H, -1).permute(0, 2, 1, 3).contiguous()
        return t.reshape(B, T, H, D).transpose(1, 2)
