"""The usual augmentation of small colour images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(images: Tensor, generator: torch.Generator, *, padding: int = 4) -> Tensor:
    """Shift each image by up to ``padding`` pixels and mirror every second one.

    Zeros move in at the borders, so give standardised images if zero should mean the mean colour.

    Args:
        images: ``[N, C, H, W]``.
        generator: draws the shifts and the mirrored images, on the CPU.
        padding: the largest shift.

    Returns:
        New images of the same shape.
    """
    num_images, _, height, width = images.shape
    top, left = torch.randint(2 * padding + 1, (2, num_images, 1), generator=generator)
    mirrored = torch.rand(num_images, 1, generator=generator) < 0.5
    columns = torch.arange(width).expand(num_images, width)
    columns = torch.where(mirrored, columns.flip(1), columns) + left
    rows = torch.arange(height) + top
    padded = F.pad(images, (padding,) * 4)
    sample = torch.arange(num_images)[:, None, None]
    # The three indices broadcast to [N, H, W] and stand around the channel axis: it goes last.
    picked = padded[sample, :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()
