"""Small networks for images: plain, residual, mobile with skips, transformers, ConvNeXt-like."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.models.registry import build


def mlp() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """784-512-256-10."""
    return build("mlp", in_shape=(1, 28, 28), num_classes=10), (torch.randn(2, 1, 28, 28),)


def resnet20() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Residual sums, BatchNorm, shortcuts that pad."""
    return build("resnet20", in_shape=(3, 32, 32), num_classes=10), (torch.randn(2, 3, 32, 32),)


def vit() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """One Linear for queries, keys and values; view, permute, scaled_dot_product_attention."""
    model = build("vit", in_shape=(3, 32, 32), num_classes=10, dim=48, depth=2, heads=4, patch=8)
    return model, (torch.randn(2, 3, 32, 32),)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a number computed from the mean of all channels."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // ratio, 1)
        self.expand = nn.Conv2d(channels // ratio, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)
        scale: Tensor = torch.sigmoid(self.expand(F.relu(self.reduce(pooled))))
        out: Tensor = x * scale
        return out


class InvertedBottleneck(nn.Module):
    """Expand, a depthwise convolution, squeeze and excitation, project; a residual if it fits."""

    def __init__(self, num_in: int, hidden: int, num_out: int, stride: int = 1) -> None:
        super().__init__()
        self.expand = nn.Conv2d(num_in, hidden, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.attention = SqueezeExcitation(hidden)
        self.project = nn.Conv2d(hidden, num_out, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(num_out)
        self.residual = num_in == num_out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.norm1(self.expand(x)))
        y = F.relu6(self.norm2(self.depthwise(y)))
        y = self.norm3(self.project(self.attention(y)))
        out: Tensor = x + y if self.residual else y
        return out


class MobileUNet(nn.Module):
    """Inverted bottlenecks down, a grouped convolution, a transposed one up, a skip that joins."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.same = InvertedBottleneck(16, 32, 16)
        self.down = InvertedBottleneck(16, 32, 24, stride=2)
        self.grouped = nn.Conv2d(24, 24, 3, 1, 1, groups=4)
        self.up = nn.ConvTranspose2d(24, 16, 2, 2)
        self.join = nn.Conv2d(32, 16, 3, 1, 1)
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.same(F.relu(self.stem(x)))
        low = F.relu(self.grouped(self.down(high)))
        joined = torch.cat((high, self.up(low)), 1)
        out: Tensor = self.out(F.relu(self.join(joined)))
        return out


def mobile_unet() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Depthwise, grouped and transposed convolutions, squeeze and excitation, concatenation."""
    return MobileUNet(), (torch.randn(2, 3, 16, 16),)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, LayerNorm over channels, a perceptron, layer scale, a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, 1, 3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.project(F.gelu(self.expand(y))) * self.scale
        out: Tensor = x + y.permute(0, 3, 1, 2)
        return out


class ConvNeXt(nn.Module):
    """A patch embedding, two blocks, a mean over places and one Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.blocks = nn.Sequential(ConvNeXtBlock(16), ConvNeXtBlock(16))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.blocks(self.stem(x)).mean((2, 3))))
        return logits


def convnext() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """LayerNorm over channels, layer scale."""
    return ConvNeXt(), (torch.randn(2, 3, 32, 32),)
