"""An attention, written as its way says."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionWay
from .layers import matrix
from .projections import Count, Projections
from .scores import Scores, rotate


class Attention(Projections, Scores):
    """Attention, written as its way says. ``way`` is never read for a number."""

    def __init__(self, way: AttentionWay, width: int, length: int) -> None:
        super().__init__()
        self.way = way
        heads, dim, inner = way.heads, way.dim, way.heads * way.dim
        narrow = inner // way.group if heads % way.group == 0 else 0
        if not narrow:
            raise ValueError("query heads that do not share key heads evenly")
        self.dim, self.inner, self.group = dim, inner, way.group
        self.config = SimpleNamespace(head_dim=dim, hidden_size=width)
        self.keep_count(way.store, heads, dim)
        linear = lambda i, o: nn.Linear(i, o, bias=way.qkv_bias)  # noqa: E731
        if way.project == "separate":
            self.q, self.k, self.v = (
                linear(width, inner),
                linear(width, narrow),
                linear(width, narrow),
            )
        elif way.project == "q and kv":
            self.q, self.kv = linear(width, inner), linear(width, 2 * narrow)
        elif way.project == "per head":
            shape = (heads, width, dim)
            self.q, self.k, self.v = (matrix(*shape) for _ in range(3))
        elif way.project == "weights":
            self.in_proj_weight = matrix(3 * inner, width)
        elif way.project == "convolution":
            self.qkv = nn.Conv1d(width, 3 * inner, 1, bias=way.qkv_bias)
        else:
            self.qkv = linear(width, 3 * inner)
        self._build_rest(way, width, length, heads, dim, inner)

    def _build_rest(self, way, width, length, heads, dim, inner) -> None:
        self.scale = dim**-0.5
        if way.merge == "einsum":
            self.o = matrix(heads, dim, width)
        elif way.out == "parameter":
            self.o = matrix(width, dim if way.merge == "sum" else inner)
        else:
            entering = dim if way.merge == "sum" else inner
            self.o = nn.Linear(entering, width, bias=way.out != "no bias")
            if way.out == "two":
                self.o2 = nn.Linear(entering, width)
        if way.bias == "per head":
            self.bias = matrix(1, heads, length, length)
        elif way.bias == "table":
            self.bias = matrix(2 * length - 1, heads)
        elif way.bias == "embedding":
            self.bias = nn.Embedding(8, heads)
        elif way.bias == "slopes":
            self.register_buffer("slopes", 2.0 ** -torch.arange(1, heads + 1).view(1, heads, 1, 1))
        elif way.bias == "kept":
            self.kept = 2.0 ** -torch.arange(1.0, heads + 1).view(1, heads, 1, 1)
        elif way.bias == "mask by head":
            self.register_buffer("reach", torch.arange(1, heads + 1))
        if way.query == "norm":
            self.q_norm, self.k_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        elif way.query == "rms":
            self.q_norm, self.k_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)
        elif way.query == "whole norm":
            self.q_norm, self.k_norm = nn.LayerNorm(inner), nn.LayerNorm(inner // way.group)
        elif way.query in ("temperature", "cosine"):
            self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        if way.mix.startswith("talking"):
            self.talk = nn.Linear(heads, heads)
        elif way.mix == "gate":
            self.gate = nn.Parameter(torch.ones(heads, 1, 1))
        elif way.mix == "input gate":
            self.gate = nn.Linear(width, heads)
        elif way.mix == "norm":
            self.norm = nn.LayerNorm(dim)
        if way.trap == "decoy":
            self.steps = heads
        elif way.trap == "rank":
            self.register_buffer("rank", 1.0 / torch.arange(1, heads + 1))

    def forward(self, x: Tensor, passed: int | None = None) -> Tensor:
        if self.way.trap == "windows":
            B, T, C = x.shape
            return self.attend(x.reshape(-1, 2, C), passed).view(B, T, C)
        return self.attend(x, passed)

    def attend(self, x: Tensor, passed: int | None) -> Tensor:
        way = self.way
        lazily = lambda: self.count(passed)  # noqa: E731
        q, k, v = self.projected(x, lazily)
        total = self.inner if way.scale == "inner" else q.shape[1] * q.shape[-1]
        if way.query in ("norm", "rms"):
            q, k = self.q_norm(q), self.k_norm(k)
        elif way.query == "rotary":
            q, k = rotate(q), rotate(k)
        elif way.query == "cosine":
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        if way.query in ("temperature", "cosine"):
            q = q * self.temperature
        if way.group > 1:
            k, v = (self.repeated(t) for t in (k, v))
        scales = {
            "tensor": q.shape[-1] ** -0.5,
            "attribute": self.scale,
            "dim": 1 / math.sqrt(self.dim),
            "width": x.shape[-1] ** -0.5,
            "inner": total**-0.5,
            "all": total**-0.5,
        }
        y = self.attended(q, k, v, scales.get(way.scale, 1.0), lazily)
        if way.mix == "gate":
            y = y * self.gate.sigmoid()
        elif way.mix == "input gate":
            y = y * self.gate(x).sigmoid().transpose(1, 2).unsqueeze(-1)
        elif way.mix == "mean":
            y = y - y.mean(1, keepdim=True)
        elif way.mix == "norm":
            y = self.norm(y)
        if way.trap == "rank":
            y = y * self.rank.view(1, -1, 1, 1).to(y.dtype)
        elif way.trap == "roll":
            y = y.roll(1, 1)
        y = self._merged(y, x, lazily)
        if way.trap == "divide":
            y = y / self.count(passed)
        elif way.trap == "decoy":
            y = y / self.steps
        elif way.trap == "size":
            y = y * self.inner
        return y

    def _merged(self, y: Tensor, x: Tensor, count: Count) -> Tensor:
        merge, (B, T, C) = self.way.merge, x.shape
        if merge == "einsum":
            return torch.einsum("bhtd,hdc->btc", y, self.o)
        if merge == "sum":
            y = y.sum(1)
        elif merge == "cat":
            y = torch.cat([y[:, i] for i in range(count())], -1)
        elif merge == "permuted":
            y = y.permute(0, 2, 1, 3).flatten(-2)
        elif merge == "tensor":
            y = y.transpose(1, 2).reshape(B, T, y.shape[1] * y.shape[3])
        else:
            y = y.transpose(1, 2)
            if merge == "flatten":
                y = y.flatten(2)
            else:
                y = y.reshape(
                    B,
                    T,
                    {"-1": -1, "inner": self.inner, "width": C}.get(merge, 0) or count() * self.dim,
                )
        if self.way.out == "parameter":
            return y @ self.o.t()
        return self.o(y) + self.o2(y) if self.way.out == "two" else self.o(y)
