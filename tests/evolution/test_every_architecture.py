"""Every architecture: masses gate all kinds, fitness is the mass gradient, optimizers follow."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from networks import NAMES, RESIDUAL, batch, draw_survivors, logits, loss_of, network, set_masses

import natsel
from natsel.communities.gates.gates import masses_of
from natsel.communities.surgery.surgery import cut, kept_indices, silence
from natsel.communities.tensors import tensors_of
from natsel.extraction.verify import folded
from natsel.fitness import FITNESS
from natsel.fitness.parts import PartsReader

each = pytest.mark.parametrize("name", NAMES)
each_and_residual = pytest.mark.parametrize("name", NAMES + RESIDUAL)


@each_and_residual
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_mass_of_0_is_silence_and_a_mass_of_1_is_nothing(name, training):
    communities = network(name)
    model, inputs = communities.model.train(training), communities.example_inputs
    survivors = draw_survivors(communities)
    masked = silence(model, communities.values(), survivors)
    plain = silence(model, communities.values(), {})
    evolution = natsel.Evolution(communities)

    def run(network):
        torch.manual_seed(3)  # dropout
        with torch.no_grad():
            return logits(network, inputs)

    set_masses(evolution, {n: torch.ones(c.size) for n, c in communities.items()})
    torch.testing.assert_close(run(model), run(plain), rtol=0, atol=1e-12)
    set_masses(evolution, {n: survivors[n].float() for n in communities})
    expected = run(masked)
    torch.testing.assert_close(run(model), expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(expected, run(plain), rtol=1e-6)
    for community, mass in masses_of(communities).items():
        assert torch.equal(mass, survivors[community].float())


@each_and_residual
def test_taylor_is_the_gradient_of_an_explicit_mass(name):
    communities = network(name)
    model = communities.model
    for p in model.parameters():
        p.requires_grad_(True)
    inputs = batch(communities, 0)
    evolution = natsel.Evolution(communities)
    generator = torch.Generator().manual_seed(1)
    masses = {
        n: 0.3 + 0.6 * torch.rand(c.size, generator=generator) for n, c in communities.items()
    }
    set_masses(evolution, masses)
    loss_of(model, inputs).backward()
    expected = mass_gradients(communities, evolution, inputs)
    reader = PartsReader(communities)
    with torch.no_grad():
        for i, (community, gradient) in enumerate(expected.items()):
            parts = reader.read(i, evolution.masses[community], lambda p: p.grad)
            scale = gradient.abs().max()
            assert scale > 0
            torch.testing.assert_close(
                FITNESS["taylor"].signal(parts), gradient.abs(), rtol=1e-8, atol=1e-9 * float(scale)
            )
            torch.testing.assert_close(
                FITNESS["alignment"].signal(parts), -gradient, rtol=1e-8, atol=1e-9 * float(scale)
            )


def mass_gradients(communities, evolution, inputs):
    """Differentiate by masses that take the place of those in the gates: m dL/dm."""
    flat = torch.cat([evolution.masses[n] for n in communities] + [torch.ones(1)]).double()
    flat.requires_grad_(True)
    stored = [(g.gate, g.gate.mass) for g in evolution._gates]
    try:
        for gated in evolution._gates:
            mass = flat[gated.places].reshape(gated.gate.mass.shape)
            gated.gate.mass = mass
        (gradient,) = torch.autograd.grad(loss_of(communities.model, inputs), flat)
    finally:
        for gate, mass in stored:
            gate.mass = mass
    values = torch.split((flat * gradient).detach()[:-1], [c.size for c in communities.values()])
    return dict(zip(communities, values, strict=True))


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1),
}


def one_step(model, optimizer, inputs):
    optimizer.zero_grad()
    loss = loss_of(model, inputs)
    loss.backward()
    optimizer.step()
    return loss.item()


def evolved(name, kind):
    """A network after a few steps with its evolution, and the optimizer of all its parameters."""
    communities = network(name)
    model = communities.model
    optimizer = OPTIMIZERS[kind](model.parameters())
    evolution = natsel.Evolution(communities, optimizer=optimizer, rate=0.3)
    for step in range(3):
        one_step(model, optimizer, batch(communities, step))
    return communities, optimizer, evolution


@each
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_after_extraction_the_next_step_is_that_of_the_masked_model(name, kind):
    communities, optimizer, _ = evolved(name, kind)
    model = communities.model
    survivors = draw_survivors(communities, seed=1)
    masked = silence(folded(model), communities.values(), survivors)
    twin = OPTIMIZERS[kind](masked.parameters())
    take_over(twin, masked, optimizer, model)
    small = natsel.extract(model, survivors, optimizer=optimizer)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(p) for p in small.parameters()
    }
    inputs = batch(communities, 9)
    assert one_step(small, optimizer, inputs) == pytest.approx(one_step(masked, twin, inputs))
    kept = kept_indices(communities.values(), survivors, tensors_of(masked))
    theirs = dict(masked.named_parameters())
    for path, parameter in small.named_parameters():
        expected = cut(theirs[path], kept.get(path, {}))
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)
    assert math.isfinite(one_step(small, optimizer, batch(communities, 10)))


def take_over(twin, masked, optimizer, model):
    """Give an optimizer the state that another one has for the parameters of the same names."""
    mine = dict(model.named_parameters())
    for path, parameter in masked.named_parameters():
        state = optimizer.state[mine[path]]
        twin.state[parameter] = copy.deepcopy(dict(state))
