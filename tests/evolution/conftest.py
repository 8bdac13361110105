"""One tiny network, its data, and a loop that trains it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import natsel
from natsel import models


class Run:
    """A model with its optimizer and evolution, on batches that depend on the step only."""

    def __init__(self, optimizer=torch.optim.Adam, lr=1e-2, **options):
        self.model = models.build("mlp", in_shape=(6,), num_classes=3, hidden=(8, 5), seed=0)
        self.communities = natsel.discover(self.model, (torch.zeros(2, 6),))
        self.optimizer = optimizer(self.model.parameters(), lr=lr)
        self.evolution = natsel.Evolution(self.communities, **options)

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 6, generator=generator)
        return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()

    def backward(self, step):
        x, y = self.batch(step)
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x), y).backward()

    def train(self, num_steps, start=0):
        for step in range(start, start + num_steps):
            self.backward(step)
            self.evolution.step()
            self.optimizer.step()
        return self


@pytest.fixture
def run():
    return Run


HARSH = {"rate": 0.2, "pressure": 2.0, "patience": 3}
"""Constants under which populations of the tiny network die within a hundred steps."""


@pytest.fixture
def harsh():
    return dict(HARSH)
