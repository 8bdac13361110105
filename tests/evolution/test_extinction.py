"""Who dies, who does not, and that the dead are really gone."""

from __future__ import annotations

import pytest
import torch

import natsel
from natsel.communities.gates.modules import GatedModule
from natsel.dynamics import DYNAMICS


def test_the_extinct_stay_extinct_and_removing_them_changes_nothing(run, harsh):
    r = run(**harsh)
    dead = {n: torch.zeros(c.size, dtype=torch.bool) for n, c in r.communities.items()}
    for step in range(80):
        r.train(1, start=step)
        for name, alive in r.evolution.alive.items():
            assert not (alive & dead[name]).any(), "nobody comes back"
            dead[name] |= ~alive
            assert (r.evolution.masses[name][~alive] == 0).all()
            assert (r.evolution.fitness_values[name][~alive] == 0).all()
    num_dead = sum(int(d.sum()) for d in dead.values())
    assert 3 <= num_dead < 13
    assert r.evolution.num_alive == 13 - num_dead
    assert r.evolution.extinct_share == pytest.approx(num_dead / 13)
    survivors = r.evolution.survivors()
    assert survivors.num_removed == num_dead
    small = natsel.extract(r.model, survivors)
    x = torch.randn(32, 6)
    torch.testing.assert_close(small(x), r.model(x), rtol=0, atol=1e-5)
    assert all(type(m).__mro__[1] is not GatedModule for m in small.modules())


@pytest.mark.parametrize("fitness", ["variance", "wanda"])
def test_a_small_model_carries_no_hook_of_natsel(run, harsh, fitness):
    r = run(fitness=fitness, **harsh).train(40)
    small = natsel.extract(r.model, r.evolution.survivors())
    assert not any(m._forward_pre_hooks for m in small.modules())
    r.train(3, start=40)


@pytest.mark.parametrize("dynamics", sorted(DYNAMICS))
def test_no_community_falls_below_its_floor(run, dynamics):
    r = run(dynamics=dynamics, rate=0.5, pressure=20.0, patience=1, level=0.3, floor=2).train(60)
    assert all(int(a.sum()) >= 2 for a in r.evolution.alive.values())
    assert r.evolution.num_alive == sum(int(a.sum()) for a in r.evolution.alive.values())


@pytest.mark.parametrize("dynamics", ["logistic", "participation", "lotka-volterra"])
def test_who_is_left_at_the_floor_recovers(run, dynamics):
    """A floor that kept populations without influence would keep nothing."""
    r = run(dynamics=dynamics, rate=0.3, pressure=10.0, patience=2, level=0.1).train(120)
    for name, mass in r.evolution.masses.items():
        assert 1 <= int(r.evolution.alive[name].sum()) <= 2
        assert mass.max() > 0.2, "twice the level, where all that is left is carried up"


def test_a_signal_that_vanishes_with_the_masses_is_no_missing_gradient(run):
    r = run()
    r.backward(0)
    for layer in (2, 4):
        r.model.layers[layer]._parameters["weight"].grad.zero_()
    r.evolution.step()
    assert r.evolution.num_steps == 1


def test_death_takes_patience(run):
    def vanish(mass, fitness, dt, **_):
        return mass * 0.001

    r = run(dynamics=vanish, patience=4)
    r.train(3)
    assert r.evolution.num_alive == 13
    r.train(1, start=3)
    assert r.evolution.num_alive == 2


def test_who_recovers_starts_to_count_anew(run):
    calls = []

    def swing(mass, fitness, dt, **_):
        calls.append(1)
        low = (len(calls) - 1) // 2 % 4 != 3  # two communities, so two calls a step
        return torch.full_like(mass, 0.01 if low else 0.5)

    r = run(dynamics=swing, patience=4).train(24)
    assert r.evolution.num_alive == 13


@pytest.mark.parametrize("dynamics", sorted(DYNAMICS))
@pytest.mark.parametrize("capacity", [0.5, 0.3])
def test_nobody_dies_below_capacity(run, dynamics, capacity):
    r = run(dynamics=dynamics, rate=0.3, pressure=3.0, patience=2, capacity=capacity)
    carried = {0.5: 7, 0.3: 4}[capacity]
    for step in range(150):
        r.train(1, start=step)
        assert r.evolution.num_alive >= carried


def test_a_run_that_lands_says_so_exactly(run, harsh):
    r = run(capacity=0.5, adaptation=0.05, **harsh).train(200)
    landing = r.evolution.landing()
    assert r.evolution.num_alive == 7
    assert landing.landed
    assert landing.asked == 0.5
    assert landing.reached == pytest.approx(6 / 13)
    assert "46.2% of the populations went extinct" in landing.message
    assert "Train longer" not in landing.message
    pressure = r.evolution.pressure
    r.train(50, start=200)
    assert r.evolution.num_alive == 7
    assert r.evolution.pressure == pressure


def test_a_run_that_does_not_land_says_what_is_missing(run):
    r = run(capacity=0.5).train(3)
    landing = r.evolution.landing()
    assert not landing.landed
    assert landing.reached == 0.0
    assert "leaves 6 too many. Train longer" in landing.message
    assert r.evolution.pressure > r.evolution.ecology.pressure
    with pytest.raises(ValueError, match="capacity"):
        run().evolution.landing()


def test_a_budget_is_met_exactly_among_masses_that_tie(run, harsh):
    r = run(**harsh).train(80)
    for share in (0.0, 0.3, 0.5, 0.8):
        survivors = r.evolution.survivors(natsel.Sparsity(share))
        assert survivors.num_removed == natsel.Sparsity(share).count(13)
        assert all(m.any() for m in survivors.values())


def test_on_the_simplex_the_mean_mass_of_the_living_stays_one(run):
    r = run(dynamics="replicator", rate=0.3, pressure=3.0, patience=2, level=0.1).train(60)
    assert r.evolution.num_alive < 13
    for group in r.evolution._populations.groups:
        sums = group.mass.sum(-1)
        torch.testing.assert_close(sums, group.alive.sum(-1), rtol=1e-4, atol=0)


def test_on_the_simplex_full_influence_takes_pressure_times_the_mean_mass(run):
    r = run(dynamics="replicator", pressure=2.0)
    # Everybody starts with the mean mass, 1, and so with half of the influence.
    for mass in r.evolution.masses.values():
        torch.testing.assert_close(mass, torch.full_like(mass, 0.5))
