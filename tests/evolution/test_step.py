"""One call a step: where it may stand, what it refuses, and that refusing changes nothing."""

from __future__ import annotations

import copy
import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import natsel
from natsel.common.errors import NonFiniteError
from natsel.dynamics import DYNAMICS
from natsel.evolution.skips import MOST
from natsel.fitness import FITNESS, Fitness


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[n], b[n]) for n in a)


def state_of(evolution):
    state = evolution.state_dict()
    return {n: state[n] for n in ("mass", "average", "alive", "below")}


@pytest.mark.parametrize("fitness", sorted(FITNESS))
@pytest.mark.parametrize("dynamics", sorted(DYNAMICS))
def test_every_law_runs_on_every_signal(run, dynamics, fitness):
    r = run(dynamics=dynamics, fitness=fitness, pressure=1.0).train(4)
    assert r.evolution.num_steps == 4
    for name, mass in r.evolution.masses.items():
        assert mass.shape == (r.communities[name].size,)
        assert ((mass >= 0) & (mass <= 1)).all()
    assert any(m.unique().numel() > 1 for m in r.evolution.masses.values())


def test_the_first_step_is_the_law_on_the_normalised_signal(run):
    r = run(dynamics="logistic", rate=0.1, pressure=1.0, initial=0.5)
    r.backward(0)
    weight = r.model.layers[2]._parameters["weight"]
    raw = (weight * weight.grad).sum(0).abs().detach()
    r.evolution.step()
    expected = torch.sigmoid(0.1 * (raw / raw.mean() - 1.0))
    torch.testing.assert_close(r.evolution.masses["layers.0"], expected)
    gate = r.evolution._gates[0].gate.mass
    assert torch.equal(gate.reshape(-1), r.evolution.masses["layers.0"])


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_after_zero_grad_a_step_is_refused(run, steps_before, set_to_none):
    r = run().train(steps_before)
    r.backward(9)
    before = state_of(r.evolution)
    r.optimizer.zero_grad(set_to_none=set_to_none)
    with pytest.raises(ValueError, match=r"before optimizer\.zero_grad"):
        r.evolution.step()
    assert same(state_of(r.evolution), before)
    assert r.evolution.num_steps == steps_before


@pytest.mark.parametrize("fitness", ["taylor", "magnitude", "wanda"])
def test_a_model_that_moved_to_another_device_is_refused(run, fitness):
    r = run(fitness=fitness).train(2)
    r.backward(2)
    before = state_of(r.evolution)
    r.model.to("meta")
    with pytest.raises(ValueError, match=r"device='meta'.*the model on 'cpu'.*move it first"):
        r.evolution.step()
    assert same(state_of(r.evolution), before)
    assert r.evolution.num_steps == 2


def test_magnitudes_need_no_gradient(run):
    r = run(fitness="magnitude")
    r.evolution.step()
    assert r.evolution.num_steps == 1


def test_activations_need_a_forward_pass_that_trains(run):
    r = run(fitness="variance").train(1)
    with pytest.raises(ValueError, match="no activation was seen"):
        r.evolution.step()
    with torch.no_grad():
        r.model(torch.randn(4, 6))
    with pytest.raises(ValueError, match="no activation was seen"):
        r.evolution.step()
    r.train(1, start=1)


def test_a_validation_between_two_steps_leaves_no_trace(run):
    plain, validated = run(fitness="wanda"), run(fitness="wanda")
    plain.train(3)
    for step in range(3):
        with torch.no_grad():
            validated.model(100 * torch.randn(4, 6))
        validated.train(1, start=step)
    assert same(plain.evolution.masses, validated.evolution.masses)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_is_named_before_an_optimizer_takes_it(run, bad):
    """No GradScaler would let an optimizer take such a step: it would spoil the weights."""
    r = run().train(2)
    r.evolution.attach(r.optimizer)
    r.backward(2)
    good = r.model.layers[4]._parameters["weight"].grad.clone()
    r.model.layers[4]._parameters["weight"].grad[0, 0] = bad
    before, weights = state_of(r.evolution), copy.deepcopy(r.model.state_dict())
    with pytest.raises(NonFiniteError, match=r"'taylor'.*at step 3 in community 'layers\.2'"):
        r.optimizer.step()
    assert same(state_of(r.evolution), before)
    assert same(r.model.state_dict(), weights)
    r.model.layers[4]._parameters["weight"].grad.copy_(good)
    r.optimizer.step()
    twin = run().train(3)
    assert same(r.evolution.masses, twin.evolution.masses)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_explicit_step_at_an_overflow_evolves_nothing_and_is_counted(run, bad):
    r = run().train(2)
    before, weights = state_of(r.evolution), copy.deepcopy(r.model.state_dict())
    for again in range(2):
        r.backward(2)
        r.model.layers[4]._parameters["weight"].grad[0, 0] = bad
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            r.evolution.step()
        assert [str(w.message)[:16] for w in said] == ["fitness 'taylor'"] * (not again)
        assert same(state_of(r.evolution), before)
        assert same(r.model.state_dict(), weights)
    assert (r.evolution.num_skipped, r.evolution.num_steps) == (2, 2)
    twin = run().train(2)
    assert same(r.train(2, start=2).evolution.masses, twin.train(2, start=2).evolution.masses)


@pytest.mark.filterwarnings("ignore:fitness")
def test_an_overflow_that_does_not_end_is_an_error(run):
    def overflow():
        r.backward(2)
        r.model.layers[4]._parameters["weight"].grad[0, 0] = math.inf
        r.evolution.step()

    r = run().train(2)
    for _ in range(MOST - 1):
        overflow()
    with pytest.raises(NonFiniteError, match=rf"'layers\.2'.*in {MOST} steps in a row"):
        overflow()
    r.train(1, start=2)  # one that is good, and the count begins anew
    overflow()
    assert (r.evolution.num_skipped, r.evolution.num_steps) == (MOST, 3)


def test_a_weight_that_is_no_number_is_no_overflow(run):
    r = run().train(2)
    with torch.no_grad():
        r.model.layers[4]._parameters["weight"][0, 0] = math.nan
    r.backward(2)
    with pytest.raises(NonFiniteError, match="'taylor'"):
        r.evolution.step()
    assert r.evolution.num_skipped == 0


def test_a_signal_that_is_no_number_on_sound_gradients_is_no_overflow(run):
    def torn(parts):
        return torch.full_like(parts.mass, math.nan)

    with pytest.raises(NonFiniteError, match="'torn'"):
        run(fitness=torn).train(1)


def test_a_law_of_the_users_own_is_checked(run):
    def broken(mass, fitness, dt, **_):
        return mass * math.nan

    def short(mass, fitness, dt, **_):
        return mass[..., 1:]

    def decay(mass, fitness, dt, **_):
        return mass * (1 - dt)

    r = run(dynamics=broken)
    before = r.evolution.masses
    with pytest.raises(NonFiniteError, match=r"'broken'.*step 1"):
        r.train(1)
    assert same(r.evolution.masses, before)
    with pytest.raises(ValueError, match="dynamics='short'"):
        run(dynamics=short).train(1)
    decayed = run(dynamics=decay, rate=0.5, initial=0.8).train(1).evolution.masses
    assert all((m == 0.4).all() for m in decayed.values())


def test_a_signal_of_the_users_own_is_checked(run):
    with pytest.raises(ValueError, match=r"fitness='flat'.*\[8\]"):
        run(fitness=Fitness("flat", lambda parts: parts.mass.sum())).train(1)
    r = run(fitness=lambda parts: -torch.ones_like(parts.mass)).train(2)
    assert all(torch.isfinite(m).all() for m in r.evolution.masses.values())


def test_the_optimizer_hook_is_the_call_before_the_optimizer(run):
    manual, hooked = run().train(5), run()
    hooked.evolution.attach(hooked.optimizer)
    for step in range(5):
        hooked.backward(step)
        hooked.optimizer.step()
    assert same(manual.evolution.masses, hooked.evolution.masses)
    assert same(manual.model.state_dict(), hooked.model.state_dict())
    hooked.evolution.attach(hooked.optimizer)
    hooked.backward(5)
    hooked.optimizer.step()
    assert hooked.evolution.num_steps == 6, "attaching twice must not evolve twice"
    hooked.evolution.detach()
    hooked.optimizer.step()
    assert hooked.evolution.num_steps == 6


def test_the_hook_ends_when_the_optimizer_goes_on_with_the_small_model(run):
    r = run()
    r.evolution.attach(r.optimizer)
    r.backward(0)
    r.optimizer.step()
    small = natsel.extract(r.model, r.evolution.survivors(), optimizer=r.optimizer)
    x, y = r.batch(1)
    r.optimizer.zero_grad()
    F.cross_entropy(small(x), y).backward()
    r.optimizer.step()
    assert r.evolution.num_steps == 1


def test_an_optimizer_of_another_model_is_refused(run):
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    communities = natsel.discover(model, (torch.zeros(1, 4),))
    with pytest.raises(ValueError, match="optimizer='SGD'"):
        natsel.Evolution(communities, optimizer=other)
    natsel.Evolution(communities)


def test_accumulated_gradients_are_read_once(run):
    whole, parts = run(optimizer=torch.optim.SGD), run(optimizer=torch.optim.SGD)
    for step in range(5):
        x, y = whole.batch(step)
        for r, chunks in ((whole, 1), (parts, 4)):
            r.optimizer.zero_grad()
            for a, b in zip(x.chunk(chunks), y.chunk(chunks), strict=True):
                (F.cross_entropy(r.model(a), b) / chunks).backward()
            r.evolution.step()
            r.optimizer.step()
    for name, mass in whole.evolution.masses.items():
        torch.testing.assert_close(mass, parts.evolution.masses[name], rtol=0, atol=1e-5)


def test_clipping_to_a_norm_changes_no_relative_fitness(run):
    plain, clipped = run(), run()
    for r in (plain, clipped):
        r.backward(0)
    nn.utils.clip_grad_norm_(clipped.model.parameters(), 1e-3)
    for r in (plain, clipped):
        r.evolution.step()
    for name, mass in plain.evolution.masses.items():
        torch.testing.assert_close(mass, clipped.evolution.masses[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("fitness", ["taylor", "wanda"])
def test_autocast_in_bfloat16(run, fitness):
    full, mixed = run(fitness=fitness), run(fitness=fitness)
    for step in range(5):
        full.train(1, start=step)
        x, y = mixed.batch(step)
        mixed.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(mixed.model(x), y)
        loss.backward()
        mixed.evolution.step()
        mixed.optimizer.step()
    for name, mass in full.evolution.masses.items():
        torch.testing.assert_close(mass, mixed.evolution.masses[name], rtol=0, atol=0.02)


@pytest.mark.parametrize("fitness", ["taylor", "wanda"])
def test_a_compiled_model_reads_the_masses_of_every_step(run, fitness):
    plain, compiled = run(fitness=fitness, rate=0.2), run(fitness=fitness, rate=0.2)
    fast = torch.compile(compiled.model, backend="eager")
    for step in range(5):
        plain.train(1, start=step)
        x, y = compiled.batch(step)
        compiled.optimizer.zero_grad()
        F.cross_entropy(fast(x), y).backward()
        compiled.evolution.step()
        compiled.optimizer.step()
    assert same(plain.evolution.masses, compiled.evolution.masses)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    evolution = natsel.Evolution(natsel.discover(model, (torch.zeros(1, 4, dtype=dtype),)))
    model(torch.randn(5, 4).to(dtype)).square().sum().backward()
    evolution.step()
    gate = evolution._gates[0].gate.mass
    assert gate.dtype == dtype
    assert torch.equal(gate.reshape(-1), evolution.masses["0"].to(dtype))


def test_weights_that_nothing_reached_are_unfit_and_frozen_ones_refused(run):
    r = run().train(1)
    r.backward(1)
    r.model.layers[4]._parameters["weight"].grad = None
    r.evolution.step()
    r.model.layers[4]._parameters["weight"].requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        r.evolution.step()
    r = run()
    r.model.layers[0].weight.requires_grad_(False)
    r.train(2)


def test_the_optimizer_cannot_undo_a_mass(run):
    """A factor folded into the weights is undone by Adam; a gate at 0.01 is not."""

    def keep(mass, fitness, dt, **_):
        return mass

    def influence(model):
        return float(model.layers[2].weight.detach().norm())

    gated = run(dynamics=keep, initial=0.01, level=0.001)
    dense = influence(run(dynamics=keep, initial=1.0).model)
    assert influence(gated.model) < 0.011 * dense
    folded = copy.deepcopy(run(dynamics=keep, initial=1.0))
    with torch.no_grad():
        folded.model.layers[2]._parameters["weight"].mul_(0.01)
    gated.train(100)
    folded.train(100)
    assert influence(folded.model) > 0.3 * dense, "the trap is real"
    assert influence(gated.model) < 0.05 * dense


def test_every_so_many_steps_the_masses_evolve_by_as_much_time(run):
    often = run(dynamics="logistic", rate=0.01, every=1).train(12)
    seldom = run(dynamics="logistic", rate=0.01, every=4)
    seen = []
    for step in range(12):
        seldom.train(1, start=step)
        seen.append(torch.cat(list(seldom.evolution.masses.values())))
    assert seldom.evolution.num_steps == 12
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert changed == [False, False, False, True] * 2 + [False, False, False]
    # The same time has passed: both are equally far from the start, to first order.
    for name, mass in often.evolution.masses.items():
        moved, reference = seldom.evolution.masses[name] - 0.9, mass - 0.9
        assert torch.sign(moved).eq(torch.sign(reference)).float().mean() > 0.7
        assert 0.5 < float(moved.abs().mean() / reference.abs().mean()) < 2.0
