"""Ways of training that must leave gates, fitness and extraction right."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from networks import batch, draw_survivors, logits, loss_of, network, set_masses
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import natsel
from natsel import models
from natsel.communities.gates.gates import fold, is_gated
from natsel.communities.surgery.surgery import silence
from natsel.extraction.verify import folded


def wrapped(kind, model):
    if kind == "compiled":
        torch._dynamo.reset()
        return torch.compile(model, backend="eager")
    return nn.DataParallel(model)


@pytest.mark.parametrize("kind", ["compiled", "parallel"])
@pytest.mark.parametrize("ran", [False, True], ids=["fresh", "already-ran"])
def test_a_wrapped_model_is_trained_and_its_network_extracted(run, kind, ran):
    reference = run()
    model = models.build("mlp", in_shape=(6,), num_classes=3, hidden=(8, 5), seed=0)
    twin = wrapped(kind, model)
    if ran:
        twin(reference.batch(0)[0])
    communities = natsel.discover(twin, (torch.zeros(2, 6),))
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2)
    evolution = natsel.Evolution(communities, optimizer=optimizer)
    for step in range(3):
        x, y = reference.batch(step)
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        optimizer.step()
    reference.train(3)
    for name, mass in reference.evolution.masses.items():
        torch.testing.assert_close(evolution.masses[name], mass)
    survivors = draw_survivors(communities)
    small = natsel.extract(twin, survivors, optimizer=optimizer)
    assert isinstance(small, models.MLP)
    assert {id(p) for p in small.parameters()} == {
        id(p) for g in optimizer.param_groups for p in g["params"]
    }
    assert natsel.verify(twin, small, survivors, (torch.randn(4, 6),)).passed


@pytest.mark.parametrize(
    "name",
    [
        "lstm",
        "transformer-encoder",
        pytest.param("hf-llama", marks=pytest.mark.slow),
        pytest.param("hf-mixtral", marks=pytest.mark.slow),
    ],
)
def test_compiled_gates_are_the_gates(name):
    communities = network(name)
    evolution = natsel.Evolution(communities)
    torch._dynamo.reset()
    compiled = torch.compile(communities.model, backend="eager")
    for seed in range(2):
        survivors = draw_survivors(communities, seed)
        set_masses(evolution, {n: survivors[n].float() for n in communities})
        masked = silence(folded(communities.model), communities.values(), survivors)
        with torch.no_grad():
            expected = logits(masked, communities.example_inputs)
            found = logits(compiled, communities.example_inputs)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["hf-mixtral", "lstm", "transformer-encoder", "hf-gpt2"])
def test_a_copy_of_a_gated_model_has_masses_of_its_own(name):
    communities = network(name)
    evolution = natsel.Evolution(communities)
    loss_of(communities.model, communities.example_inputs).backward()  # what it leaves is copied
    survivors = draw_survivors(communities)
    set_masses(evolution, {n: survivors[n].float() for n in communities})
    twin = copy.deepcopy(communities.model)

    def run(model):
        with torch.no_grad():
            return logits(model, communities.example_inputs)

    expected = run(communities.model)
    set_masses(evolution, {n: torch.ones(c.size) for n, c in communities.items()})
    assert torch.equal(run(twin), expected)
    assert not torch.allclose(run(communities.model), expected)
    before = run(communities.model)
    fold(communities.model)
    torch.testing.assert_close(run(communities.model), before, rtol=1e-10, atol=1e-12)
    assert is_gated(twin)
    assert torch.equal(run(twin), expected)


def test_a_moving_average_is_cut_to_the_same_survivors(run):
    trained = run()
    average = AveragedModel(trained.model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for step in range(4):
        trained.train(1, start=step)
        average.update_parameters(trained.model)
    survivors = draw_survivors(trained.communities)
    small = natsel.extract(average.module, survivors)
    own = natsel.extract(trained.model, survivors)
    x = torch.randn(5, 6)
    with torch.no_grad():
        masked = silence(folded(average.module), trained.communities.values(), survivors)
        torch.testing.assert_close(small(x), masked(x))
        assert not torch.allclose(small(x), own(x))
    assert [p.shape for p in small.parameters()] == [p.shape for p in own.parameters()]


def test_halves_of_a_batch_give_the_fitness_of_the_whole(run):
    whole, halves = run(), run()
    whole.backward(0)
    x, y = halves.batch(0)
    halves.optimizer.zero_grad()
    for part in (slice(0, 8), slice(8, 16)):
        (F.cross_entropy(halves.model(x[part]), y[part]) / 2).backward()
    for trained in (whole, halves):
        trained.evolution.step()
    for name, value in whole.evolution.fitness_values.items():
        torch.testing.assert_close(halves.evolution.fitness_values[name], value)


def test_autocast_to_bfloat16_keeps_masses_and_gradients_in_float32(run):
    trained = run()
    x, y = trained.batch(0)
    set_masses(
        trained.evolution,
        {n: torch.arange(c.size) % 2 * 1.0 for n, c in trained.communities.items()},
    )
    with torch.autocast("cpu", torch.bfloat16):
        out = trained.model(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), trained.model(x), rtol=0.05, atol=0.02)
    F.cross_entropy(out.float(), y).backward()
    assert all(p.grad.dtype == torch.float32 for p in trained.model.parameters())
    trained.evolution.step()
    assert all(torch.isfinite(v).all() for v in trained.evolution.fitness_values.values())


def test_groups_schedule_and_frozen_parameters_go_on(run):
    trained = run()
    first, *_, last = [m for m in trained.model.modules() if isinstance(m, nn.Linear)]
    first.bias.requires_grad_(False)
    groups = [{"params": [first.weight], "lr": 0.1}, {"params": list(last.parameters())}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for step in range(2):
        trained.backward(step)
        optimizer.step()
        schedule.step()
    survivors = draw_survivors(trained.communities)
    small = natsel.extract(trained.model, survivors, optimizer=optimizer)
    linears = [m for m in small.modules() if isinstance(m, nn.Linear)]
    assert not linears[0].bias.requires_grad
    held = [[id(p) for p in g["params"]] for g in optimizer.param_groups]
    assert held == [[id(linears[0].weight)], [id(p) for p in linears[-1].parameters()]]
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.025, 0.0025])
    untouched = linears[1].weight.detach().clone()
    before = linears[0].weight.detach().clone()
    F.cross_entropy(small(trained.batch(3)[0]), trained.batch(3)[1]).backward()
    optimizer.step()
    schedule.step()
    assert torch.equal(linears[1].weight, untouched)
    assert not torch.equal(linears[0].weight, before)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.0125, 0.00125])


def test_an_expert_that_died_is_never_chosen_again_and_one_that_lives_is():
    communities = network("hf-mixtral")
    name, experts = next((n, c) for n, c in communities.items() if c.kind == "expert")
    evolution = natsel.Evolution(communities)
    router = communities.model.get_submodule(name).gate
    chosen = []
    router.register_forward_hook(lambda m, i, out: chosen.append(set(out[2].flatten().tolist())))
    masses = {n: torch.full((c.size,), 0.5) for n, c in communities.items()}
    inputs = batch(communities, 0)
    set_masses(evolution, masses)
    logits(communities.model, inputs)
    dead = min(chosen[-1])
    masses[name][dead] = 0
    set_masses(evolution, masses)
    logits(communities.model, inputs)
    assert dead not in chosen[-1]
    assert len(chosen[-1]) >= 2
    masses[name][dead] = 0.01
    set_masses(evolution, masses)
    logits(communities.model, inputs)
    assert dead in chosen[-1]
    assert experts.size == 6


def test_as_many_experts_survive_as_the_router_chooses():
    communities = network("hf-mixtral")
    evolution = natsel.Evolution(communities, rate=0.5, pressure=1e6, patience=1)
    for step in range(12):
        communities.model.zero_grad()
        loss_of(communities.model, batch(communities, step)).backward()
        evolution.step()
    left = {n: int(m.sum()) for n, m in evolution.survivors().items()}
    expected = {n: 2 if c.kind == "expert" else 1 for n, c in communities.items()}
    assert left == expected
    small = natsel.extract(communities.model, evolution.survivors())
    assert torch.isfinite(logits(small, communities.example_inputs)).all()
    kept = evolution.survivors(natsel.Sparsity(0.9))
    assert all(int(m.sum()) >= expected[n] for n, m in kept.items())
