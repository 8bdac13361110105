"""Networks whose forward has sizes written into it, and their inputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from exactness import Net
from torch import nn

L = nn.Linear
VEC = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
IMG = torch.randn(2, 3, 8, 8)


class Attention(nn.Module):
    """12 wide, 4 heads of 3: written out."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = L(12, 36), L(12, 12)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, 4, 3).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(B, T, 12))


class BatchedAttention(nn.Module):
    """The same with heads folded into the batch, and softmax by hand."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = L(12, 36), L(12, 12)

    def forward(self, x):
        B, T, _ = x.shape
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (p.view(B, T, 4, 3).transpose(1, 2).reshape(B * 4, T, 3) for p in parts)
        weights = torch.bmm(q * 3**-0.5, k.transpose(1, 2)).softmax(-1)
        y = torch.bmm(weights, v).view(B, 4, T, 3).transpose(1, 2)
        return self.proj(y.reshape(B, T, 12))


class ViT(nn.Module):
    """Two blocks on 2 x 2 patches."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Conv2d(3, 12, 4, 4)
        self.first, self.second = Attention(), BatchedAttention()
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.up, self.down, self.head = L(12, 10), L(10, 12), L(12, 3)

    def forward(self, x):
        x = self.embedding(x).view(-1, 12, 4).transpose(1, 2)
        x = x + self.first(self.norm1(x))
        x = x + self.second(self.norm2(x))
        x = x + self.down(F.gelu(self.up(x)).view(-1, 4, 10))
        return self.head(x.mean(1))


def perceptron():
    def forward(m, x):
        return m.c(m.b(m.a(x).relu().view(-1, 8)).tanh().reshape(-1, 6))

    return Net(forward, a=L(5, 8), b=L(8, 6), c=L(6, 3)), VEC


def flattened():
    def forward(m, x):
        y = m.norm(m.a(x)).relu().reshape(-1, 8, 8, 8)
        y = F.max_pool2d(m.depthwise(y), 2)
        return m.c(m.b(y).relu().view(x.size(0), 96))

    parts = {
        "a": nn.Conv2d(3, 8, 3, padding=1),
        "norm": nn.BatchNorm2d(8),
        "depthwise": nn.Conv2d(8, 8, 3, padding=1, groups=8),
        "b": nn.Conv2d(8, 6, 1),
        "c": L(96, 3),
    }
    return Net(forward, **parts), IMG


def split():
    def forward(m, x):
        u, v = m.a(x).relu().split([6, 8], -1)
        return m.b(u) + m.c(v)

    return Net(forward, a=L(5, 14), b=L(6, 3), c=L(8, 3)), VEC


def joined():
    def forward(m, x):
        u, v = m.a(x).split(5, 1)
        return m.b(torch.cat((u.relu(), v.tanh()), 1))

    return Net(forward, a=L(5, 10), b=L(10, 3)), VEC


def gated():
    def forward(m, x):
        y = m.a(x)
        return m.b(y[:, :7] * torch.sigmoid(y[:, -7:]))

    return Net(forward, a=L(5, 14), b=L(7, 3)), VEC


def groups():
    def forward(m, x):
        y = F.conv2d(m.a(x), m.weight, padding=1, groups=8)
        return m.b(F.group_norm(y, 8, m.scale, m.shift).relu())

    parts = {"weight": (8, 1, 3, 3), "scale": (8,), "shift": (8,)}
    parts = {name: nn.Parameter(torch.randn(shape)) for name, shape in parts.items()}
    return Net(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1), **parts), IMG


def constants():
    """A shortcut that pads, and constants of a written size beside it."""

    def forward(m, x):
        x = m.a(x)
        padded = F.pad(x, (0, 0, 0, 0, 2, 2))
        zeros = torch.zeros(x.size(0), 3, 8, 8, dtype=x.dtype)
        ones = torch.ones(x.size(0), 5, 8, 8, dtype=x.dtype)
        y = m.b(x.relu()) + padded + torch.cat((zeros, ones), 1)
        return m.c(y.relu().mean((2, 3)))

    return Net(forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 8, 1), c=L(8, 3)), IMG


def spread():
    """One scale a head, repeated by hand."""

    def forward(m, x):
        scale = m.scale.view(4, 1).expand(4, 3).reshape(12)
        return m.b((m.a(x) * scale).unflatten(1, (4, 3)).tanh().flatten(1))

    return Net(forward, a=L(5, 12), b=L(12, 3), scale=nn.Parameter(torch.randn(4))), VEC


EXACT = {
    "vit": lambda: (ViT(), IMG),
    "perceptron": perceptron,
    "flattened": flattened,
    "split": split,
    "joined": joined,
    "gated": gated,
    "groups": groups,
    "constants": constants,
    "spread": spread,
}
