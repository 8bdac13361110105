"""A gated weight reads as the parametrization's own property reads it."""

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

import natsel
from natsel.communities import gated_reads
from natsel.communities.gates import fold, install


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def gated():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    (gate,) = install(natsel.discover(model, (torch.zeros(1, 4),)))
    gate.gate.mass.uniform_()
    return model, gate.gate


def test_it_is_the_product_and_has_its_gradient():
    model, gate = gated()
    layer = model[2]
    original = layer.parametrizations.weight.original
    assert torch.equal(layer.weight, original * gate.mass)
    assert torch.equal(layer.weight, layer.parametrizations.weight())
    layer.weight.sum().backward()
    assert torch.equal(original.grad, gate.mass.expand_as(original))


def test_it_joins_a_cache():
    model, _ = gated()
    assert model[2].weight is not model[2].weight
    with parametrize.cached():
        assert model[2].weight is model[2].weight


def test_it_applies_what_was_added_later_and_calls_hooks():
    model, gate = gated()
    seen = []
    gate.register_forward_hook(lambda *_: seen.append(1))
    parametrize.register_parametrization(model[2], "weight", Twice())
    original = model[2].parametrizations.weight.original
    assert torch.equal(model[2].weight, 2 * (original * gate.mass))
    assert seen


def test_a_copy_reads_its_own_and_a_fold_leaves_none():
    model, _ = gated()
    twin = copy.deepcopy(model)
    twin[2].parametrizations.weight[0].mass.zero_()
    assert model[2].weight.abs().sum() > 0
    assert twin[2].weight.abs().sum() == 0
    expected = model[2].weight.detach().clone()
    fold(model)
    assert isinstance(model[2].weight, nn.Parameter)
    assert torch.equal(model[2].weight, expected)
    assert twin[2].weight.abs().sum() == 0


def test_it_can_be_assigned_and_shortened_twice():
    model, gate = gated()
    gated_reads.shorten(model[2], "weight")
    gate.mass.fill_(1)
    value = torch.ones(3, 6)
    model[2].parametrizations.weight.original.data = value
    assert torch.equal(model[2].weight, value)


def test_it_compiles_without_a_break():
    model, gate = gated()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(5, 4)
    for _ in range(2):
        gate.mass.uniform_()
        assert torch.equal(compiled(x), model(x))
