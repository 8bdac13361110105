"""Gates: mass 1 is the model, mass 0 is silence, folding keeps what the masses did."""

import copy
from collections import defaultdict

import pytest
import torch
import torch.nn.functional as F
from exactness import Net, found
from torch import nn

from natsel import models
from natsel.communities.gates.gates import fold, install, is_gated
from natsel.communities.surgery.surgery import silence

VEC = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TOK = torch.tensor([[1, 2, 0, 4]])
IMG = torch.randn(2, 1, 14, 14, dtype=torch.float64)


def networks(name):
    if name == "tied":
        net = Net(lambda m, x: m.b(m.a(x)), a=nn.Embedding(5, 4), b=nn.Linear(4, 5, bias=False))
        net.b.weight = net.a.weight
        return found(net, TOK), TOK
    if name == "functional":
        net = Net(lambda m, x: F.linear(m.a(x).relu(), m.w), a=nn.Linear(5, 4))
        net.w = nn.Parameter(torch.randn(3, 4))
        return found(net, VEC), VEC
    options = {
        "vit": {"dim": 8, "depth": 1, "heads": 2, "patch": 7},
        "resnet20": {"width": 4, "num_blocks": 1},
    }
    net = models.build(name, in_shape=(1, 14, 14), num_classes=3, **options.get(name, {}))
    return found(net, IMG), IMG


def set_masses(communities, gated, masses):
    flat = torch.cat([*(masses[c] for c in communities), torch.ones(1)])
    for g in gated:
        g.gate.mass.copy_(flat[g.places].reshape(g.gate.mass.shape))


def random_masses(communities, binary):
    torch.manual_seed(5)
    draw = {c.name: torch.rand(c.size) for c in communities.values()}
    return {name: (m > 0.5).float() if binary else m for name, m in draw.items()}


NAMES = ["mlp", "cnn", "resnet20", "vit", "tied", "functional"]


@pytest.mark.parametrize("name", NAMES)
def test_mass_one_changes_nothing_and_mass_zero_is_silence(name):
    communities, x = networks(name)
    model = communities.model
    parameters = [id(p) for p in model.parameters()]
    masses = random_masses(communities, binary=True)
    survivors = {name: m.bool() for name, m in masses.items()}
    with torch.no_grad():
        expected = model(x)
        masked = silence(model, communities.values(), survivors)(x)
        gated = install(communities)
        assert is_gated(model)
        assert parameters == [id(p) for p in model.parameters()]
        assert torch.equal(model(x), expected)
        set_masses(communities, gated, masses)
        assert torch.allclose(model(x), masked, rtol=1e-10)
        assert not torch.allclose(model(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_folding_keeps_the_function_and_the_parameters(name):
    communities, x = networks(name)
    model = communities.model
    parameters = [id(p) for p in model.parameters()]
    names = [n for n, _ in model.named_parameters()]
    gated = install(communities)
    assert [n for n, _ in model.named_parameters()] == names
    set_masses(communities, gated, random_masses(communities, binary=False))
    with torch.no_grad():
        expected = model(x)
        twin = copy.deepcopy(model)
        assert torch.equal(twin(x), expected)
        fold(model)
        assert not is_gated(model)
        assert is_gated(twin)
        assert torch.allclose(model(x), expected, rtol=1e-10)
        assert torch.equal(twin(x), expected)
    assert parameters == [id(p) for p in model.parameters()]
    assert names == [n for n, _ in model.named_parameters()]


def test_gates_compile():
    communities, x = networks("mlp")
    gated = install(communities)
    compiled = torch.compile(communities.model, backend="eager")
    with torch.no_grad():
        for binary in (True, False):
            set_masses(communities, gated, random_masses(communities, binary))
            assert torch.allclose(compiled(x), communities.model(x))


def test_the_gradient_of_the_parameter_carries_the_mass():
    communities, x = networks("functional")
    model = communities.model
    gated = install(communities)
    masses = {"a": torch.tensor([0.0, 0.25, 0.5, 1.0])}
    set_masses(communities, gated, masses)
    model(x).sum().backward()
    h = model.a(x).relu().sum(0)
    gradient = dict(model.named_parameters())["w"].grad
    assert torch.allclose(gradient, (masses["a"] * h).expand(3, 4))


def test_a_second_set_of_gates_is_refused():
    communities, _ = networks("mlp")
    install(communities)
    with pytest.raises(ValueError, match="already gated"):
        install(communities)


class Product(nn.Module):
    def __init__(self, mass):
        super().__init__()
        self.mass = mass

    def forward(self, weight):
        return weight * self.mass


@pytest.mark.parametrize("name", NAMES)
def test_it_is_bit_for_bit_what_a_parametrization_of_the_same_weights_gives(name):
    """An independent reference: torch's own way to let a weight be read as another one."""
    communities, x = networks(name)
    reference = copy.deepcopy(communities.model)
    gated = install(communities)
    set_masses(communities, gated, random_masses(communities, binary=False))
    owners = defaultdict(list)
    for module in list(reference.modules()):
        for attribute, parameter in module._parameters.items():
            owners[id(parameter)].append((module, attribute))
    parameters = dict(reference.named_parameters())
    weights = {g.tensor: parameters[g.tensor] for g in gated}
    for g in gated:
        for module, attribute in owners[id(weights[g.tensor])]:
            product = Product(g.gate.mass)
            nn.utils.parametrize.register_parametrization(module, attribute, product, unsafe=True)
    for model in (communities.model, reference):
        model(x).square().sum().backward()
    assert torch.equal(communities.model(x), reference(x))
    own = dict(communities.model.named_parameters())
    for tensor, weight in weights.items():
        assert torch.equal(own[tensor].grad, weight.grad)
        assert float(weight.grad.abs().sum()) > 0
