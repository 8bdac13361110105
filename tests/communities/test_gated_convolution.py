"""A block whose sizes of a split are a tuple, as timm's MambaOut has it."""

from __future__ import annotations

import torch
from torch import nn

import natsel


class GatedConvBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 24), nn.Linear(12, 6)
        self.split_indices = (12, 7, 5)
        self.conv = nn.Conv2d(5, 5, 3, padding=1, groups=5)

    def forward(self, x):
        g, i, c = torch.split(self.fc1(x), self.split_indices, dim=-1)
        c = self.conv(c.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(nn.functional.gelu(g) * torch.cat((i, c), dim=-1))


GatedConvBlock.__module__ = "timm.models.mambaout"


def test_the_sizes_of_a_split_follow():
    model = nn.Sequential(GatedConvBlock(), nn.Flatten(), nn.Linear(96, 3)).eval()
    x = torch.randn(2, 4, 4, 6)
    communities = natsel.discover(model, x)
    assert sorted(c.size for c in communities.values() if c.name.startswith("0.fc1")) == [5, 7]
    masks = communities.full()
    for name, community in communities.items():
        masks[name][: community.size // 2] = False
    small = natsel.extract(model, natsel.Survivors(masks, communities))
    assert small[0].split_indices == (7, 4, 3)
    assert model[0].split_indices == (12, 7, 5)
