"""Reference networks, small, with normalisations that are not the identity."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import natsel
from natsel import models

OPTIONS = {
    "mlp": {"hidden": (9, 6)},
    "cnn": {"widths": (4, 6)},
    "resnet20": {"width": 4},
    "vit": {"dim": 16, "depth": 1, "heads": 4, "patch": 4},
}


@functools.cache
def network(name):
    """Build once: extraction must leave it as it is."""
    model = models.build(name, in_shape=(1, 8, 8), num_classes=10, seed=0, **OPTIONS[name])
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    inputs = (torch.randn(3, 1, 8, 8),)
    return model, natsel.discover(model, inputs), inputs


def random_survivors(communities, share, seed):
    """Keep a random share of each community, one at least."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, community in communities.items():
        mask = torch.rand(community.size, generator=generator) >= share
        mask[int(torch.randint(community.size, (1,), generator=generator))] = True
        masks[name] = mask
    return natsel.Survivors(masks, communities)


@pytest.fixture
def net():
    return network


@pytest.fixture
def draw():
    return random_survivors
