"""The rank of an adapter is no community unless asked for, whoever wrote the adapter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import natsel


class Named(nn.Module):
    """Parameters that are called as they mostly are."""

    def __init__(self, inputs, outputs, rank=4):
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.lora_A = nn.Parameter(torch.randn(rank, inputs))
        self.lora_B = nn.Parameter(torch.randn(outputs, rank))

    def forward(self, x):
        return self.base(x) + (x @ self.lora_A.T @ self.lora_B.T) * 0.5


class LoRALinear(nn.Module):
    """Only the class says it, and the base is what it inherits from."""

    def __init__(self, inputs, outputs, rank=4):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.a = nn.Linear(inputs, rank, bias=False)
        self.b = nn.Linear(rank, outputs, bias=False)

    def forward(self, x):
        return self.linear(x) + self.b(self.a(x))


class Unnamed(nn.Module):
    """Nothing says it but what it computes."""

    def __init__(self, inputs, outputs, rank=4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.down = nn.Parameter(torch.randn(inputs, rank))
        self.up = nn.Parameter(torch.randn(rank, outputs))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        return 2.0 * (self.dropout(x) @ self.down @ self.up) + nn.functional.linear(x, self.weight)


class Convolutions(nn.Module):
    def __init__(self, inputs, outputs, rank=4):
        super().__init__()
        self.base = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.down = nn.Conv2d(inputs, rank, 3, padding=1, bias=False)
        self.up = nn.Conv2d(rank, outputs, 1, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x)) * 0.5


@pytest.mark.parametrize("layer", [Named, LoRALinear, Unnamed, Convolutions])
def test_hand_written_adapters(layer):
    model = nn.Sequential(layer(8, 16), nn.ReLU(), layer(16, 5)).eval()
    x = torch.randn(2, 8, 6, 6) if layer is Convolutions else torch.randn(2, 8)
    found = natsel.discover(model, x)
    assert [c.size for c in found.values()] == [16]
    ranks = [r for r in found.refused if "low-rank adapter" in r.reason]
    assert [r.size for r in ranks] == [4, 4]
    assert all("lora=True" in r.remedy for r in ranks)
    asked = natsel.discover(model, x, lora=True)
    assert sorted(c.size for c in asked.values()) == [4, 4, 16]
    assert {r.name for r in ranks} == asked.keys() - found.keys()


def test_a_selection_with_adapters_is_extracted():
    model = nn.Sequential(Named(8, 16), nn.ReLU(), Named(16, 5)).eval()
    x = torch.randn(2, 8)
    communities = natsel.discover(model, x)
    survivors = {name: torch.arange(c.size) % 2 == 0 for name, c in communities.items()}
    small = natsel.extract(model, survivors, communities=communities)
    assert tuple(small[0].lora_B.shape) == (8, 4)
    assert natsel.verify(model, small, natsel.Survivors(survivors, communities), (x,)).passed


class Bottleneck(nn.Module):
    """Two maps in a row that stand for one, with nothing beside them."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(8, 4, bias=False), nn.Linear(4, 5)

    def forward(self, x):
        return self.up(self.down(x))


class Gated(nn.Module):
    """An adapter with a nonlinearity inside has neurons."""

    def __init__(self):
        super().__init__()
        self.base, self.down, self.up = nn.Linear(8, 5), nn.Linear(8, 4), nn.Linear(4, 5)

    def forward(self, x):
        return self.base(x) + self.up(torch.relu(self.down(x)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(8, 4, bias=False), nn.Linear(4, 8, bias=False)

    def forward(self, x):
        return x + self.up(self.down(x))


@pytest.mark.parametrize("kind", [Bottleneck, Gated, Residual])
def test_what_only_looks_like_one_is_offered(kind):
    assert [c.size for c in natsel.discover(kind().eval(), torch.randn(2, 8)).values()] == [4]


def test_the_adapters_of_peft():
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    config = peft.LoraConfig(r=4, target_modules=["0", "2"])
    adapted = peft.get_peft_model(model, config).eval()
    found = natsel.discover(adapted, torch.randn(2, 8))
    assert [c.size for c in found.values()] == [16]
    assert sum("low-rank adapter" in r.reason for r in found.refused) == 2
