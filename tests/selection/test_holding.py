"""Masks hold while a model trains, whatever the optimizer does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

import natsel

OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "momentum": lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.9, nesterov=True),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), 0.01, weight_decay=0.1),
    "fused": lambda m: torch.optim.AdamW(m.parameters(), 0.01, fused=True),
    "foreach": lambda m: torch.optim.Adam(m.parameters(), 0.01, foreach=True),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def train(model: nn.Module, optimizer: Optimizer, *, steps: int = 5, accumulate: int = 1) -> None:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        for part in x.chunk(accumulate):
            model(part).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_what_went_stays_zero_and_the_rest_learns(name: str, accumulate: int) -> None:
    model = network()
    masks = natsel.select(natsel.weights(model), natsel.Sparsity(0.5), scope="row")
    optimizer = OPTIMIZERS[name](model)
    train(model, optimizer)  # momentum of weights that will go
    before = model[0].weight.detach().clone()  # type: ignore[union-attr]
    with natsel.hold(model, masks):
        for _ in range(3):
            train(model, optimizer, accumulate=accumulate)
            for key, mask in masks.items():
                weight = model.get_parameter(key)
                assert not weight[~mask].any()
                assert weight.grad is not None
                assert not weight.grad[~mask].any()
    kept = masks["0.weight"]
    assert not torch.equal(model[0].weight[kept], before[kept])  # type: ignore[index,union-attr]


def test_afterwards_they_are_free() -> None:
    model = network()
    masks = natsel.select(natsel.weights(model), natsel.Sparsity(0.5))
    held = natsel.hold(model, masks)
    optimizer = OPTIMIZERS["adamw"](model)
    train(model, optimizer)
    held.close()
    held.close()
    train(model, optimizer)
    assert (model.get_parameter("0.weight")[~masks["0.weight"]] != 0).all()


def test_other_models_are_left_alone() -> None:
    model, other = network(), network()
    masks = natsel.select(natsel.weights(model), natsel.Sparsity(0.5))
    with natsel.hold(model, masks):
        train(other, OPTIMIZERS["momentum"](other))
    assert (other.get_parameter("0.weight") != 0).all()


def test_frozen_weights_are_held_too() -> None:
    model = network()
    masks = natsel.select(natsel.weights(model), natsel.Sparsity(0.5))
    model.get_parameter("0.weight").requires_grad_(False)
    with natsel.hold(model, masks):
        train(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1))
    assert not model.get_parameter("0.weight")[~masks["0.weight"]].any()


@pytest.mark.parametrize(
    ("masks", "told"),
    [
        ({}, "masks="),
        ({"nothing": torch.ones(1) > 0}, "masks='nothing'"),
        ({"0.weight": torch.ones(8, 6)}, "booleans"),
        ({"0.weight": torch.ones(6, 8) > 0}, r"\(8, 6\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: dict[str, torch.Tensor], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        natsel.hold(network(), masks)
