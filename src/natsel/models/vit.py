"""A vision transformer for small images, written out by hand.

Reference: Dosovitskiy et al., An Image is Worth 16x16 Words, 2021.

Legend: B images, T tokens, D = dim, h heads, d = D / h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.errors import choose, refuse
from natsel.models.checks import image_shape, positive, positives


class Attention(nn.Module):
    """Self-attention with one Linear for queries, keys and values.

    Args:
        dim: width of a token.
        heads: how many heads share it.

    Shapes:
        ``[B, T, D]`` -> ``[B, T, D]``
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, _ = x_BTD.shape
        qkv = self.qkv(x_BTD).reshape(B, T, 3, self.heads, self.head_dim)
        q_BhTd, k_BhTd, v_BhTd = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y_BhTd = F.scaled_dot_product_attention(q_BhTd, k_BhTd, v_BhTd)
        y = y_BhTd.transpose(1, 2).reshape(B, T, self.heads * self.head_dim)
        out: Tensor = self.proj(y)
        return out


class EncoderBlock(nn.Module):
    """Attention and a two-layer perceptron, each after a LayerNorm and with a residual.

    Args:
        dim: width of a token.
        heads: how many attention heads.
        hidden: neurons of the perceptron.

    Shapes:
        ``[B, T, D]`` -> ``[B, T, D]``
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.norm1(x_BTD))
        x_BTD = x_BTD + self.mlp(self.norm2(x_BTD))
        return x_BTD


class ViT(nn.Module):
    """Patches become tokens, tokens attend to each other, one Linear classifies.

    Args:
        in_shape: of one image, (C, H, W).
        num_classes: how many outputs.
        dim: width of a token; 384 with depth 12 and 6 heads is a ViT-Small.
        depth: how many encoder blocks.
        heads: attention heads of a block.
        mlp_ratio: neurons of a block's perceptron, as a multiple of ``dim``.
        patch: side of a patch in pixels.
        pool: what is classified: "cls" (a token of its own) or "mean" (of all tokens).
        stem: widths of 3x3 convolutions of stride 2, each with BatchNorm and GELU, that the image
            goes through first (Xiao et al., Early Convolutions Help Transformers See Better,
            2021); ``patch`` then counts their places instead of pixels.

    Shapes:
        ``[B, C, H, W]`` -> ``[B, T, D]`` -> ``[B, num_classes]``
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        *,
        dim: int = 192,
        depth: int = 6,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        patch: int = 4,
        pool: str = "cls",
        stem: Sequence[int] = (),
    ) -> None:
        super().__init__()
        num_channels, height, width = image_shape(in_shape)
        widths = positives("stem", stem) if stem else ()
        scale = 2 ** len(widths)
        side = positive("patch", patch) * scale
        if height % side or width % side:
            after = f", halved {len(widths)} times" if widths else ""
            refuse("patch", patch, f"a divisor of H and W of in_shape={tuple(in_shape)}{after}")
        if positive("dim", dim) % positive("heads", heads):
            refuse("heads", heads, f"a divisor of dim={dim}")
        positive("depth", depth)
        if not isinstance(mlp_ratio, int | float) or not math.isfinite(mlp_ratio):
            refuse("mlp_ratio", mlp_ratio, "a finite number")
        hidden = int(dim * mlp_ratio)
        if hidden < 1:
            refuse("mlp_ratio", mlp_ratio, f"at least 1 / dim = 1 / {dim}")
        choose("pool", pool, ("cls", "mean"))
        num_tokens = (height // side) * (width // side) + (pool == "cls")
        layers: list[nn.Module] = []
        for narrow, wide in pairwise((num_channels, *widths)):
            convolution = nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(wide), nn.GELU()]
        self.stem = nn.Sequential(*layers)
        self.embedding = nn.Conv2d((num_channels, *widths)[-1], dim, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim)) if pool == "cls" else None
        self.positions = nn.Parameter(torch.zeros(1, num_tokens, dim))
        self.blocks = nn.Sequential(*(EncoderBlock(dim, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.positions, std=0.02)
        if self.cls is not None:
            nn.init.trunc_normal_(self.cls, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x_BTD = self.embedding(self.stem(x)).flatten(2).transpose(1, 2)
        if self.cls is not None:
            x_BTD = torch.cat((self.cls.expand(x.shape[0], -1, -1), x_BTD), dim=1)
        x_BTD = self.norm(self.blocks(x_BTD + self.positions))
        pooled_BD = x_BTD.mean(1) if self.cls is None else x_BTD[:, 0]
        logits: Tensor = self.head(pooled_BD)
        return logits
