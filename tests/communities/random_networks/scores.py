"""How attention compares queries with keys: products, scales, biases and softmaxes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .counts import HeadCount
from .projections import Count


class Scores(HeadCount):
    """The second half of an attention."""

    def repeated(self, t: Tensor) -> Tensor:
        B, H, T, D = t.shape
        if self.way.core in ("matmul", "bmm"):
            return t.repeat_interleave(self.group, 1)
        return t[:, :, None].expand(B, H, self.group, T, D).reshape(B, H * self.group, T, D)

    def _bias(self, T: int, like: Tensor) -> Tensor | None:
        way, steps = self.way, torch.arange(T)
        if way.bias == "none":
            return None
        distance = steps[:, None] - steps[None]
        if way.bias == "causal":
            return torch.zeros(T, T, dtype=like.dtype).masked_fill(distance < 0, -1e4)
        if way.bias == "per head":
            return self.bias[:, :, :T, :T]
        if way.bias == "table":
            rows = self.bias[distance + T - 1]
            return rows.permute(2, 0, 1).unsqueeze(0)
        if way.bias == "embedding":
            return self.bias(distance.clamp(-4, 3) + 4).permute(2, 0, 1).unsqueeze(0)
        if way.bias == "slopes":
            return -(self.slopes * distance.abs()).to(like.dtype)
        if way.bias == "kept":
            return (self.kept * distance.sign()).to(like.dtype)
        far = distance.abs()[None] > self.reach[:, None, None]
        return torch.zeros(far.shape, dtype=like.dtype).masked_fill(far, -1e4).unsqueeze(0)

    def attended(self, q: Tensor, k: Tensor, v: Tensor, scale: float, count: Count) -> Tensor:
        way, (B, H, T, _) = self.way, q.shape
        bias = self._bias(T, q)
        if way.core == "sdpa" and not way.mix.startswith("talking"):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        if way.core in ("bmm", "baddbmm", "bmm by repeat"):
            H = count()
            q, k, v = (t.reshape(B * H, T, -1) for t in (q, k, v))
            if way.core == "baddbmm":
                empty = torch.zeros(B * H, T, T, dtype=q.dtype)
                logits = torch.baddbmm(empty, q, k.transpose(1, 2), beta=0, alpha=scale)
            else:
                logits = torch.bmm(q * scale, k.transpose(1, 2))
            if bias is not None and way.core == "bmm by repeat":
                bias = bias.expand(B, H, T, T).reshape(B * H, T, T)
                y = torch.bmm(self._softmax(logits + bias), v)
                return y.reshape(B, H, T, -1)
            logits = logits.view(B, H, T, T)
            weights = self._weights(logits, bias)
            return torch.bmm(weights.reshape(B * H, T, T), v).view(B, H, T, -1)
        if way.core == "bthd":
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            weights = self._weights(torch.einsum("bqhd,bkhd->bhqk", q, k) * scale, bias)
            return torch.einsum("bhqk,bkhd->bqhd", weights, v).transpose(1, 2)
        if way.core == "einsum":
            weights = self._weights(torch.einsum("bhqd,bhkd->bhqk", q * scale, k), bias)
            return torch.einsum("bhqk,bhkd->bhqd", weights, v)
        return self._weights(q @ k.transpose(-2, -1) * scale, bias) @ v

    def _weights(self, logits: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None:
            logits = logits + bias
        if self.way.mix == "talking before":
            logits = self.talk(logits.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        weights = self._softmax(logits)
        if self.way.mix == "talking after":
            weights = self.talk(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return weights

    def _softmax(self, x: Tensor) -> Tensor:
        way = self.way.softmax
        if way == "dtype":
            return F.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype)
        if way == "float":
            return x.float().softmax(-1).type_as(x)
        if way == "to":
            return torch.softmax(x.to(torch.float32), -1).to(x.dtype)
        if way == "island":
            with torch.autocast("cpu", enabled=False):
                return F.dropout(x.float().softmax(-1), 0.1, self.training).to(x.dtype)
        if way == "max":
            return (x - x.amax(-1, keepdim=True)).softmax(-1)
        if way == "exp":
            e = (x - x.max(-1, keepdim=True).values).exp()
            return e / e.sum(-1, keepdim=True)
        return x.softmax(-1)


def rotate(t: Tensor) -> Tensor:
    """Turn pairs of places by an angle that grows along the sequence."""
    T, D = t.shape[-2:]
    angles = torch.arange(T, dtype=t.dtype)[:, None] / 10 ** (
        torch.arange(D // 2, dtype=t.dtype) / D
    )
    cos, sin = (f(angles).repeat(1, 2) for f in (torch.cos, torch.sin))
    first, second = t.chunk(2, -1)
    return t * cos + torch.cat((-second, first), -1) * sin
