"""The identity m dL/dm = <V, dL/dV>: read from weights, it equals autograd on an explicit mass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import natsel
from natsel import models
from natsel.communities.gates.gates import suspended
from natsel.communities.tensors import tensors_of
from natsel.fitness import FITNESS
from natsel.fitness.parts import PartsReader
from natsel.fitness.taylor import OF_MASS_GRADIENT, mass_gradient

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class Residual(nn.Module):
    """A residual width that is read by several consumers."""

    def __init__(self, activation):
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.inner = nn.Linear(6, 4)
        self.back = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.activation = activation()

    def forward(self, x):
        h = self.stem(x)
        h = h + self.back(self.activation(self.inner(h)))
        return self.head(h)


def linear(activation):
    return nn.Sequential(
        nn.Linear(5, 7), activation(), nn.Linear(7, 6), activation(), nn.Linear(6, 3)
    )


def convolution(activation):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        activation(),
        nn.Conv2d(4, 5, 3),
        activation(),
        nn.Flatten(),
        nn.Linear(20, 3),
    )


def vit(activation):
    return models.build("vit", in_shape=(1, 8, 8), num_classes=3, dim=8, depth=1, heads=4, patch=4)


NETWORKS = {
    "linear": (linear, (4, 5)),
    "convolution": (convolution, (4, 2, 6, 6)),
    "residual": (Residual, (4, 5)),
    "vit": (vit, (4, 1, 8, 8)),
}


@pytest.fixture(params=[(n, a) for n in NETWORKS for a in ACTIVATIONS if n != "vit" or a == "gelu"])
def trained(request):
    """A float64 network with uneven masses in its gates, after backward."""
    network, activation = request.param
    build, shape = NETWORKS[network]
    torch.manual_seed(0)
    model = build(ACTIVATIONS[activation]).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    communities = natsel.discover(model, (torch.randn(shape, dtype=torch.float64),))
    evolution = natsel.Evolution(communities)
    generator = torch.Generator().manual_seed(1)
    masses = {
        n: 0.1 + 0.8 * torch.rand(c.size, generator=generator) for n, c in communities.items()
    }
    set_masses(evolution, masses)
    x = torch.randn(shape, dtype=torch.float64)
    labels = torch.randint(3, (4,))
    F.cross_entropy(model(x), labels).backward()
    return model, communities, evolution, x, labels


def set_masses(evolution, masses):
    populations = evolution._populations
    for mass, start in zip(masses.values(), populations.starts, strict=True):
        populations.mass[start : start + len(mass)] = mass
    evolution._write_gates()


def explicit(model, communities, masses, x, labels):
    """Differentiate the loss with respect to masses that multiply the gated weights."""
    tensors = tensors_of(model)
    variables = {n: m.double().requires_grad_() for n, m in masses.items()}
    plain = {}
    for name, tensor in tensors.items():
        plain[name] = tensor.detach().clone()
    for name, community in communities.items():
        for part in community.gates:
            key = part.tensor
            width = part.index.shape[1]
            places = part.index.reshape(-1)
            scale = torch.ones(plain[key].shape[part.axis], dtype=torch.float64)
            scale = scale.index_put((places,), variables[name].repeat_interleave(width))
            shape = [1] * plain[key].dim()
            shape[part.axis] = -1
            plain[key] = plain[key] * scale.reshape(shape)
    with suspended(model, fold=False):
        loss = F.cross_entropy(torch.func.functional_call(model, plain, (x,)), labels)
    gradients = torch.autograd.grad(loss, list(variables.values()))
    return {n: v.detach() * g for (n, v), g in zip(variables.items(), gradients, strict=True)}


def signals(communities, evolution, name):
    reader = PartsReader(communities)
    with torch.no_grad():
        return {
            n: FITNESS[name].signal(reader.read(i, evolution.masses[n], lambda p: p.grad))
            for i, n in enumerate(communities)
        }


def test_taylor_and_alignment_equal_autograd_on_the_mass(trained):
    model, communities, evolution, x, labels = trained
    expected = explicit(model, communities, evolution.masses, x, labels)
    assert len(expected) >= 1
    for name, value in signals(communities, evolution, "taylor").items():
        torch.testing.assert_close(value, expected[name].abs(), rtol=0, atol=1e-10)
    for name, value in signals(communities, evolution, "alignment").items():
        torch.testing.assert_close(value, -expected[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_mass_on_the_weights_is_a_mass_on_the_activation(activation):
    torch.manual_seed(0)
    first, second = nn.Linear(5, 7).double(), nn.Linear(7, 3).double()
    act = ACTIVATIONS[activation]()
    model = nn.Sequential(first, act, second)
    communities = natsel.discover(model, (torch.randn(2, 5, dtype=torch.float64),))
    evolution = natsel.Evolution(communities, initial=0.6)
    x, labels = torch.randn(9, 5, dtype=torch.float64), torch.randint(3, (9,))
    F.cross_entropy(model(x), labels).backward()
    mass = evolution.masses["0"].double().requires_grad_()
    raw = second._parameters["weight"].detach()
    loss = F.cross_entropy(F.linear(act(first(x)) * mass, raw, second.bias), labels)
    (gradient,) = torch.autograd.grad(loss, mass)
    expected = (mass * gradient).detach()
    value = signals(communities, evolution, "taylor")["0"]
    torch.testing.assert_close(value, expected.abs(), rtol=0, atol=1e-10)
    if activation == "relu":
        incoming = (first.weight * first.weight.grad).sum(1) + first.bias * first.bias.grad
        torch.testing.assert_close(incoming.detach(), expected, rtol=0, atol=1e-10)
    else:
        incoming = (first.weight * first.weight.grad).sum(1) + first.bias * first.bias.grad
        assert not torch.allclose(incoming, expected, atol=1e-6), "only ReLU is homogeneous"


def test_every_kind_of_population_is_met():
    kinds = set()
    for build, shape in NETWORKS.values():
        communities = natsel.discover(build(nn.GELU), (torch.randn(shape),))
        kinds |= {c.kind for c in communities.values()}
    assert kinds == {"neuron", "filter", "head"}


def test_an_evolution_reads_the_same_numbers(trained):
    _, communities, evolution, _, _ = trained
    reader = PartsReader(communities)
    for position, name in enumerate(communities):
        parts = reader.read(position, evolution.masses[name], lambda p: p.grad)
        found = reader.mass_gradient(position, lambda p: p.grad)
        assert torch.equal(found, mass_gradient(parts))
        for signal, finish in OF_MASS_GRADIENT.items():
            assert torch.equal(finish(found), signal(parts))
    with pytest.raises(ValueError, match="requires no gradient"):
        reader.mass_gradient(0, lambda _: None)
