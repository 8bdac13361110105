"""A run can be copied, stopped and resumed without a trace."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from natsel.common.files import load_tree, save_tree
from natsel.dynamics import DYNAMICS
from natsel.evolution.trajectory import Trajectory

CONSTANTS = {"rate": 0.3, "pressure": 2.0, "patience": 2, "competition_every": 3}


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[n], b[n]) for n in a)


def equal(first, second):
    a, b = first.evolution.state_dict(), second.evolution.state_dict()
    assert same(first.model.state_dict(), second.model.state_dict())
    for name in ("mass", "average", "alive", "below", "generator"):
        assert torch.equal(a[name], b[name]), name
    assert a["pressure"] == b["pressure"]
    assert a["steps"] == b["steps"]
    assert same(
        a["trajectory"] | {"interval": torch.tensor(0)},
        b["trajectory"] | {"interval": torch.tensor(0)},
    )
    assert same(first.evolution.masses, second.evolution.masses)
    return True


@pytest.mark.parametrize("fitness", ["taylor", "wanda"])
@pytest.mark.parametrize("dynamics", sorted(DYNAMICS))
def test_a_resumed_run_is_the_run_that_never_stopped(run, tmp_path, dynamics, fitness):
    options = {"dynamics": dynamics, "fitness": fitness, "capacity": 0.4, **CONSTANTS}
    whole = run(**options).train(40)
    half = run(**options).train(17)
    tree = {
        "model": half.model.state_dict(),
        "optimizer": half.optimizer.state_dict(),
        "evolution": half.evolution.state_dict(),
    }
    save_tree(tmp_path / "state.safetensors", tree)
    saved = load_tree(tmp_path / "state.safetensors")
    resumed = run(**options, seed=99)
    resumed.model.load_state_dict(saved["model"])
    resumed.optimizer.load_state_dict(saved["optimizer"])
    resumed.evolution.load_state_dict(saved["evolution"])
    assert equal(half, resumed)
    assert equal(whole, resumed.train(23, start=17))


@pytest.mark.parametrize("dynamics", sorted(DYNAMICS))
def test_a_seed_determines_a_run(run, dynamics):
    first = run(dynamics=dynamics, seed=3, **CONSTANTS).train(15)
    torch.rand(7)
    assert equal(first, run(dynamics=dynamics, seed=3, **CONSTANTS).train(15))
    other = run(dynamics=dynamics, seed=4, **CONSTANTS).train(15)
    assert same(first.evolution.masses, other.evolution.masses) != DYNAMICS[dynamics].stochastic


@pytest.mark.parametrize("fitness", ["taylor", "wanda"])
@pytest.mark.parametrize("dynamics", ["logistic", "wright-fisher"])
def test_a_deep_copy_lives_its_own_life(run, dynamics, fitness):
    options = {"dynamics": dynamics, "fitness": fitness, **CONSTANTS}
    original = run(**options).train(10)
    untouched = run(**options).train(10)
    twin = copy.deepcopy(original)
    assert equal(original, twin)
    twin.train(10, start=10)
    assert equal(original, untouched), "training the copy must not change the original"
    assert equal(original.train(10, start=10), twin)


def test_a_deep_copy_is_attached_anew(run):
    original = run()
    original.evolution.attach(original.optimizer)
    twin = copy.deepcopy(original)
    for r in (original, twin):
        r.backward(0)
        r.optimizer.step()
    assert original.evolution.num_steps == 1
    assert twin.evolution.num_steps == 0
    twin.evolution.attach(twin.optimizer)
    twin.backward(1)
    twin.optimizer.step()
    assert (original.evolution.num_steps, twin.evolution.num_steps) == (1, 1)


def test_a_state_of_another_run_is_refused(run):
    state = run().evolution.state_dict()
    with pytest.raises(ValueError, match="'replicator'"):
        run(dynamics="replicator").evolution.load_state_dict(state)
    with pytest.raises(ValueError, match="'gradient'"):
        run(fitness="gradient").evolution.load_state_dict(state)
    with pytest.raises(ValueError, match="without alive, average"):
        run().evolution.load_state_dict({"steps": 3})
    with pytest.raises(ValueError, match="sizes"):
        run().evolution.load_state_dict({**state, "sizes": {"layers.0": 9}})


@pytest.mark.parametrize(
    ("constant", "value", "message"),
    [
        ("rate", 0.25, r"\['rate'\]=0\.3 is not allowed: expected 0\.25"),
        ("patience", 5, r"\['patience'\]=2 is not allowed: expected 5"),
        ("capacity", 0.5, r"\['capacity'\]=None is not allowed: expected 0\.5"),
    ],
)
def test_a_state_of_a_run_with_other_constants_is_refused(run, constant, value, message):
    state = run(**CONSTANTS).train(5).evolution.state_dict()
    other = run(**{**CONSTANTS, constant: value}).train(2)
    untouched = run(**{**CONSTANTS, constant: value}).train(2)
    with pytest.raises(ValueError, match=message):
        other.evolution.load_state_dict(state)
    assert equal(other, untouched)


def test_a_state_is_plain_whatever_kind_of_number_the_constants_are(run, tmp_path):
    options = {"capacity": np.float64(0.4), "rate": 1, "pressure": np.float64(2)}
    state = run(**options).train(2).evolution.state_dict()
    torch.save(state, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = run(capacity=0.4, rate=1.0, pressure=2.0)
    resumed.evolution.load_state_dict(saved)
    assert resumed.evolution.num_steps == 2


def test_masses_that_are_read_are_copies(run):
    evolution = run().evolution
    evolution.masses["layers.0"].zero_()
    assert (evolution.masses["layers.0"] == evolution.ecology.initial).all()


@pytest.mark.parametrize("num_steps", [1, 399, 400, 2500])
def test_a_trajectory_is_evenly_spaced_in_bounded_memory(num_steps):
    trajectory = Trajectory(3)
    for step in range(num_steps + 1):
        trajectory.record(step, torch.full((3,), float(step)))
    steps, masses = trajectory.steps, trajectory.masses
    assert len(steps) <= 400
    assert masses.shape == (len(steps), 3)
    assert torch.equal(masses[:, 0], steps.float())
    assert steps[0] == 0
    assert (steps.diff() == trajectory.interval).all()
    assert num_steps - steps[-1] < trajectory.interval


def test_a_trajectory_of_many_populations_keeps_fewer_records():
    wide = Trajectory(1 << 20)
    assert wide.capacity == 8
    assert Trajectory(1 << 16).capacity == 64


def test_a_trajectory_lists_masses_in_the_order_of_the_communities(run):
    r = run(rate=0.2).train(3)
    assert r.evolution.trajectory.steps.tolist() == [0, 1, 2, 3]
    expected = torch.cat(list(r.evolution.masses.values()))
    # Kept as float16.
    torch.testing.assert_close(r.evolution.trajectory.masses[-1], expected, atol=5e-4, rtol=0)
