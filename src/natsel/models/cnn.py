"""A plain convolutional network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from natsel.models.checks import image_shape, positives


class CNN(nn.Module):
    """Convolution, batch normalisation, ReLU and pooling, once for each width; then one Linear.

    Args:
        in_shape: of one image, (C, H, W); each stage halves H and W.
        num_classes: how many outputs.
        widths: filters of each stage.

    Shapes:
        ``[B, C, H, W]`` -> ``[B, widths[-1] * (H / 8) * (W / 8)]`` -> ``[B, num_classes]``,
        for three stages
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[int] = (32, 64, 128),
    ) -> None:
        super().__init__()
        widths = positives("widths", widths)
        reduction = 2 ** len(widths)
        num_in, height, width = image_shape(in_shape, reduction)
        stages: list[nn.Module] = []
        for num_out in widths:
            stages += [
                nn.Conv2d(num_in, num_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(num_out),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            num_in = num_out
        self.features = nn.Sequential(*stages)
        positions = (height // reduction) * (width // reduction)
        self.head = nn.Linear(num_in * positions, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).flatten(1))
        return logits
