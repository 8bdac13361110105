"""Tiny random vision transformers of each family, and images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from natsel.models import ViT

transformers = pytest.importorskip("transformers")

SIZES = {
    **{"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2},
    **{"intermediate_size": 24, "image_size": 12, "patch_size": 3},
}
EAGER = {"attn_implementation": "eager"}

FAMILIES = {
    "own": ("own", {}),
    "own-mean": ("own", {"pool": "mean"}),
    "spelled-out": ("spelled-out", {}),
    "multihead": ("multihead", {}),
    "vit": ("ViTForImageClassification", {}),
    "vit-eager": ("ViTModel", EAGER),
    "deit": ("DeiTForImageClassification", {}),
    "dinov2": ("Dinov2ForImageClassification", {}),
    "registers": ("Dinov2WithRegistersModel", {}),
    "clip": ("CLIPVisionModel", {}),
    "siglip": ("SiglipVisionModel", {}),
}
NO_CLASS = ("own-mean", "siglip")


class SpelledOut(nn.Module):
    """A block as many repositories have it: products of matrices, scaled queries, x = x + f(x)."""

    def __init__(self, dim=16, heads=2):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 24), nn.GELU(), nn.Linear(24, dim))

    def attention(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Multihead(nn.Module):
    """A block around ``nn.MultiheadAttention``, as torchvision has it."""

    def __init__(self, dim=16, heads=2, **asked):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 24), nn.GELU(), nn.Linear(24, dim))
        self.asked = {"need_weights": False, **asked}

    def forward(self, tokens):
        x = self.norm1(tokens)
        x = self.attention(x, x, x, **self.asked)[0] + tokens
        return x + self.mlp(self.norm2(x))


def vit(family="own", seed=0, **options):
    """Return a vision transformer in evaluation mode, the same every time."""
    name, own = FAMILIES[family]
    torch.manual_seed(seed)
    if name in ("own", "spelled-out", "multihead"):
        sizes = {"dim": 16, "depth": 3, "heads": 2, "patch": 3, "mlp_ratio": 1.5}
        made = ViT((3, 12, 12), 5, **{**sizes, **own, **options})
        if name == "spelled-out":
            made.blocks = nn.Sequential(*(SpelledOut() for _ in range(3)))
        if name == "multihead":
            made.blocks = nn.Sequential(*(Multihead() for _ in range(3)))
    else:
        config = getattr(
            transformers, name.replace("ForImageClassification", "Model")[:-5] + "Config"
        )
        made = getattr(transformers, name)(config(**{**SIZES, **own, **options}))
    for parameter in made.parameters():  # so that attention is not nearly uniform
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.4)
    return made.eval()


def images(rows=2, seed=1, side=12):
    return torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(seed))


def first(output):
    """Return the first tensor of an output: logits, or the last hidden state."""
    return output if isinstance(output, torch.Tensor) else output[0]
