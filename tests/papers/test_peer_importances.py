"""torch-pruning's importances: its own code on our populations; needs the bench extra."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import natsel
from natsel_papers import importances as room

tp = pytest.importorskip("torch_pruning")


def test_importances_are_those_of_the_formulas() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    communities = natsel.discover(model, (x[:2],))
    found = room.importances(communities, [(x[:5], y[:5]), (x[5:], y[5:])])
    assert tuple(found) == room.IMPORTANCES
    into, out = model[0].weight.detach(), model[2].weight.detach()

    def same(name: str, expected: torch.Tensor) -> None:
        # Default options: the mean over the layers of a group, divided by the layer's mean.
        torch.testing.assert_close(found[name]["0"], expected / expected.mean())

    same("magnitude", (into.square().sum(1) + out.square().sum(0)) / 2)
    hidden = model[1](model[0](x))
    same("activation", hidden.abs().sum(0).detach())
    loss = nn.functional.cross_entropy(model(x), y)
    g_in, g_out = torch.autograd.grad(loss, (model[0].weight, model[2].weight))
    same("taylor", ((into * g_in).abs().sum(1) + (out * g_out).abs().sum(0)) / 2)
    squares = [
        torch.autograd.grad(
            nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]),
            (model[0].weight, model[2].weight),
        )
        for i in range(8)
    ]
    h_in, h_out = (torch.stack([s[k].square() for s in squares]).sum(0) for k in (0, 1))
    same("hessian", ((into.square() * h_in).sum(1) + (out.square() * h_out).sum(0)) / 2)
    assert all(v["0"].shape == (6,) and bool(v["0"].isfinite().all()) for v in found.values())
    assert all(p.grad is None for p in model.parameters())


def test_a_community_that_is_no_linear_layer_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    communities = natsel.discover(model, (torch.zeros(1, 1, 4, 4),))
    with pytest.raises(ValueError, match="neurons of Linear layers"):
        room.importances(communities, [(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))])
