"""Branches under evolution: a mass multiplies what a branch adds, and the useless one goes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import natsel


class Block(nn.Module):
    """h + W2 relu(W1 h)."""

    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Linear(width, 2 * width)
        self.second = nn.Linear(2 * width, width)

    def forward(self, h):
        return h + self.second(torch.relu(self.first(h)))


class Noise(nn.Module):
    """h + A sin(1000 h): what nobody learns anything from."""

    def __init__(self, width=8):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, h):
        return h + self.inner(torch.sin(1000 * h))


class Tower(nn.Module):
    """Blocks between an entry and an exit."""

    def __init__(self, *blocks, width=8):
        super().__init__()
        self.enter = nn.Linear(3, width)
        self.blocks = nn.ModuleList(blocks)
        self.leave = nn.Linear(width, 2)

    def forward(self, x):
        h = self.enter(x)
        for block in self.blocks:
            h = block(h)
        return self.leave(h)


G = torch.Generator().manual_seed(0)
X = torch.randn(512, 3, generator=G)
Y = ((X[:, 0] * X[:, 1] > 0) ^ (X[:, 2] > 0)).long()
NAME = "blocks:branches"


def tower(*kinds):
    torch.manual_seed(0)
    return Tower(*(kind() for kind in kinds or (Block, Noise, Block)))


def branches_of(model):
    return natsel.discover(model, X[:4], branches=True).only("branch")


def set_masses(evolution, *masses):
    evolution._populations.influence[: len(masses)] = torch.tensor(masses)
    evolution._write_gates()


def test_the_mass_multiplies_what_a_branch_adds():
    model = tower(Block, Block)
    plain = copy.deepcopy(model)
    evolution = natsel.Evolution(branches_of(model))
    set_masses(evolution, 0.5, 0.25)
    h = plain.enter(X)
    for block, mass in zip(plain.blocks, (0.5, 0.25), strict=True):
        h = h + mass * (block(h) - h)
    torch.testing.assert_close(model(X), plain.leave(h), rtol=1e-5, atol=1e-6)


def test_what_is_saved_is_plain_and_acts_alike():
    model = tower(Block, Block)
    evolution = natsel.Evolution(branches_of(model))
    set_masses(evolution, 0.5, 0.25)
    other = tower(Block, Block)
    assert list(other.state_dict()) == list(model.state_dict())
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(X), model(X), rtol=1e-5, atol=1e-6)


def test_the_fitness_is_the_gradient_of_an_explicit_mass():
    model = tower(Block, Block)
    plain = copy.deepcopy(model).double()
    evolution = natsel.Evolution(branches_of(model), fitness="taylor")
    set_masses(evolution, 0.5, 0.25)
    nn.functional.cross_entropy(model(X), Y).backward()
    evolution.step()
    mass = torch.tensor([0.5, 0.25], dtype=torch.float64, requires_grad=True)
    h = plain.enter(X.double())
    for block, m in zip(plain.blocks, mass, strict=True):
        h = h + m * (block(h) - h)
    nn.functional.cross_entropy(plain.leave(h), Y).backward()
    expected = (mass * mass.grad).abs()
    found = evolution.fitness_values[NAME].double()
    torch.testing.assert_close(found, (expected / expected.mean()).detach(), rtol=1e-4, atol=1e-6)


class Fold(nn.Module):
    """h + W2 relu(W1 h) with two units: the absolute value of one number, not of two."""

    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Linear(width, 2)
        self.second = nn.Linear(2, width)

    def forward(self, h):
        return h + self.second(torch.relu(self.first(h)))


@pytest.mark.parametrize("dynamics", ["logistic", "replicator"])
def test_noise_goes_extinct_and_is_removed_with_its_state(dynamics):
    model = tower(Fold, Noise, Fold)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    communities = branches_of(model)
    evolution = natsel.Evolution(
        communities, dynamics=dynamics, optimizer=optimizer, capacity=2 / 3
    )
    for _ in range(500):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X), X[:, :2].abs()).backward()
        optimizer.step()
    assert evolution.alive[NAME].tolist() == [True, False, True]
    kept = model.blocks[2].first.weight
    state = optimizer.state[kept]["exp_avg"].clone()
    small = natsel.extract(model, evolution.survivors(), optimizer=optimizer)
    assert len(small.blocks) == 2
    model.eval()
    small.eval()
    with torch.no_grad():
        torch.testing.assert_close(small(X), model(X), rtol=1e-5, atol=1e-6)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in small.parameters()}
    assert {id(p) for p in optimizer.state} == {id(p) for p in small.parameters()}
    assert torch.equal(optimizer.state[small.blocks[1].first.weight]["exp_avg"], state)
    nn.functional.cross_entropy(small(X), Y).backward()
    optimizer.step()


def test_an_evolution_of_neurons_and_branches_goes_on_where_it_was_stopped():
    def fresh():
        model = tower(Block, Block)
        evolution = natsel.Evolution(natsel.discover(model, X[:4], branches=True), capacity=0.5)
        return model, evolution, torch.optim.SGD(model.parameters(), lr=0.1)

    def run(model, evolution, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), Y).backward()
            evolution.step()
            optimizer.step()

    model, evolution, optimizer = fresh()
    run(model, evolution, optimizer, 6)
    again, resumed, second = fresh()
    run(again, resumed, second, 3)
    third, last, optimizer = fresh()
    third.load_state_dict(again.state_dict())
    last.load_state_dict(resumed.state_dict())
    run(third, last, optimizer, 3)
    for name, mass in evolution.masses.items():
        assert torch.equal(last.masses[name], mass)
    assert torch.equal(third(X), model(X))


class Convolved(nn.Module):
    """h + norm(conv(h)), as residual networks have it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, h):
        return torch.relu(h + self.norm(self.conv(h)))


def test_the_mass_of_a_branch_multiplies_the_normalisation_that_it_ends_in():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), Convolved(), Convolved(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model.append(nn.Linear(4, 2))
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    communities = natsel.discover(model, images, branches=True).only("branch")
    ((name, community),) = communities.items()
    assert community.branches[0].gates == ("1.norm.weight", "1.norm.bias")
    plain = copy.deepcopy(model)
    evolution = natsel.Evolution(communities)
    set_masses(evolution, 0.5, 0.0)
    h = plain[0](images)
    h = torch.relu(h + 0.5 * plain[1].norm(plain[1].conv(h)))
    expected = plain[3:](torch.relu(h))
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-6)
    small = natsel.extract(
        model, natsel.Survivors({name: torch.tensor([True, False])}, communities)
    )
    small.eval()
    model.eval()
    torch.testing.assert_close(small(images), model(images), rtol=1e-5, atol=1e-6)


def test_neurons_and_branches_share_a_weight():
    model = tower(Block, Block)
    communities = natsel.discover(model, X[:4], branches=True)
    evolution = natsel.Evolution(communities)
    weight = model.blocks[0].second._parameters["weight"].detach().clone()
    masses = torch.rand(communities.num_populations, generator=G)
    evolution._populations.influence[:-1] = masses
    evolution._write_gates()
    held = evolution.masses
    read = model.blocks[0].second.weight
    expected = weight * held["blocks.0.first"] * held[NAME][0]
    torch.testing.assert_close(read.detach(), expected)
    from natsel.communities.gates.gates import masses_of

    for name, found in masses_of(communities).items():
        assert torch.equal(found, held[name])


class Normed(nn.Module):
    """h + norm(A h) without weights behind: a factor on A changes nothing."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, h):
        f = self.inner(h)
        return h + f * f.square().mean(-1, keepdim=True).add(1e-6).rsqrt()


def test_what_no_mass_scales_is_refused_by_name():
    communities = branches_of(tower(Normed, Block, Block))
    with pytest.raises(ValueError, match=r"blocks\.0\.inner, under a normalisation"):
        natsel.Evolution(communities)
    with pytest.raises(ValueError, match="loss and cosine"):
        natsel.score(communities, "taylor", data=[(X, Y)])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"fitness": "wanda"},
            "fitness='wanda' is not allowed: expected for branches one of taylor",
        ),
        ({"dynamics": "lotka-volterra"}, "for branches one of .*logistic"),
    ],
)
def test_what_says_nothing_of_branches_is_refused(options, told):
    model = tower()
    with pytest.raises(ValueError, match=told):
        natsel.Evolution(branches_of(model), **options)
    assert type(model.blocks[0].second) is nn.Linear
