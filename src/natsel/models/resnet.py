"""ResNet-20 for small images.

Reference: He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.errors import choose
from natsel.models.checks import image_shape, positive


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the new channels.

    Args:
        num_new: how many channels of zeros follow the given ones.

    Shapes:
        ``[B, C, H, W]`` -> ``[B, C + num_new, H / 2, W / 2]``
    """

    def __init__(self, num_new: int) -> None:
        super().__init__()
        self.num_new = num_new

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.num_new))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut around them.

    Args:
        num_in: channels of the input.
        num_out: channels of the output.
        stride: 2 where a stage begins, else 1.
        shortcut: "pad" or "conv", for a stride of 2.

    Shapes:
        ``[B, num_in, H, W]`` -> ``[B, num_out, H / stride, W / stride]``
    """

    def __init__(self, num_in: int, num_out: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 and shortcut == "pad":
            self.shortcut = PadShortcut(num_out - num_in)
        elif stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False), nn.BatchNorm2d(num_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet20(nn.Module):
    """A convolution, three stages of residual blocks, global average pooling and one Linear.

    Args:
        in_shape: of one image, (C, H, W).
        num_classes: how many outputs.
        shortcut: what changes the shape between stages: "pad" (option A of the paper, without
            parameters) or "conv" (a 1x1 convolution).
        width: channels of the first stage; each further stage has twice as many.
        num_blocks: residual blocks of a stage; 3 make 20 layers.

    Shapes:
        ``[B, C, H, W]`` -> ``[B, width, H, W]`` -> ``[B, 4 * width, H / 4, W / 4]``
        -> ``[B, num_classes]``
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        *,
        shortcut: str = "pad",
        width: int = 16,
        num_blocks: int = 3,
    ) -> None:
        super().__init__()
        choose("shortcut", shortcut, ("pad", "conv"))
        num_channels, _, _ = image_shape(in_shape)
        positive("width", width)
        positive("num_blocks", num_blocks)
        self.conv = nn.Conv2d(num_channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        num_in = width
        for stage in range(3):
            num_out = width * 2**stage
            for number in range(num_blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(Block(num_in, num_out, stride, shortcut))
                num_in = num_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(num_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        out = self.blocks(F.relu(self.bn(self.conv(x))))
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits
