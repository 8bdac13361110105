from __future__ import annotations

from functools import partial

import pytest
import torch

import natsel.dynamics
from natsel.dynamics import DYNAMICS, Dynamic, get, register, replicator_mutator


def decay(mass, fitness, dt, *, pressure=1.0, competition=None, generator=None):
    return mass / (1 + dt * pressure)


def test_names():
    assert set(DYNAMICS) >= {
        "replicator",
        "replicator-mutator",
        "logistic",
        "lotka-volterra",
        "wright-fisher",
        "participation",
    }
    assert all(law.name == name for name, law in DYNAMICS.items())


def test_competing_and_stochastic_laws_say_so():
    assert {law.name for law in DYNAMICS.values() if law.competes} == {
        "lotka-volterra",
        "participation",
    }
    assert [law.name for law in DYNAMICS.values() if law.stochastic] == ["wright-fisher"]


def test_a_wrong_name_is_answered_with_the_near_one():
    with pytest.raises(ValueError, match=r"dynamics='logistik'.*did you mean 'logistic'"):
        get("logistik")


def test_what_is_no_law_is_refused():
    with pytest.raises(ValueError, match=r"dynamics=3 is not allowed"):
        get(3)


def test_a_law_passes_through():
    law = Dynamic("decay", decay, "box")
    assert get(law) is law


def test_a_bare_function_becomes_a_law():
    assert get(decay) == Dynamic("decay", decay, "box", None, False, False)
    assert "decay" not in DYNAMICS


def test_a_partial_of_a_bare_function_keeps_its_name():
    law = get(partial(decay, pressure=2.0))
    assert law.name == "decay"
    assert law.step(torch.ones(1), torch.ones(1), 0.5).tolist() == [0.5]


def test_a_callable_object_is_named_after_its_class():
    class Decay:
        def __call__(self, mass, fitness, dt, **keywords):
            return mass

    assert get(Decay()).name == "Decay"


def test_a_step_of_the_table_is_recognised():
    assert get(natsel.dynamics.logistic) is DYNAMICS["logistic"]


def test_constants_of_a_law_can_be_bound():
    mass, fitness = torch.tensor([1.0, 1.0]), torch.tensor([1.5, 0.5])
    expected = replicator_mutator(mass, fitness, 0.1, mutation=0.4)
    for law in (
        get("replicator-mutator").bind(mutation=0.4),
        get(partial(replicator_mutator, mutation=0.4)),
    ):
        assert law.space == "simplex"
        assert torch.equal(law.step(mass, fitness, 0.1), expected)
        # Births 1.5 and 0.5, of which 0.4 (1 - 1.5) moves, less the mean fitness of 1.
        assert law.velocity(mass, fitness).tolist() == pytest.approx([0.3, -0.3])
    assert not torch.equal(get("replicator-mutator").step(mass, fitness, 0.1), expected)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="'logistic' is already registered"):
        register(Dynamic("logistic", decay, "box"))
