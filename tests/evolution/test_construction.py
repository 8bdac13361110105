"""What an Evolution refuses before it starts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import natsel


def communities_of(model=None):
    model = model or nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return natsel.discover(model, (torch.zeros(1, 4),))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamics": "logistik"}, "dynamics='logistik'.*did you mean 'logistic'"),
        ({"fitness": "tailor"}, "fitness='tailor'.*did you mean 'taylor'"),
        ({"presure": 1.0}, "presure=1.*did you mean 'pressure'"),
        ({"rate": -0.1}, "rate=-0.1"),
        ({"rate": math.nan}, "rate=nan"),
        ({"rate": True}, "rate=True"),
        ({"pressure": math.inf}, "pressure=inf"),
        ({"pressure": "high"}, "pressure='high'"),
        ({"adaptation": -1}, "adaptation=-1"),
        ({"horizon": 0}, "horizon=0"),
        ({"horizon": 2.5}, r"horizon=2\.5"),
        ({"patience": 0}, "patience=0"),
        ({"patience": True}, "patience=True"),
        ({"competition_every": 0}, "competition_every=0"),
        ({"initial": 0}, "initial=0"),
        ({"initial": 1.5}, r"initial=1\.5"),
        ({"initial": None}, "initial=None"),
        ({"level": 0.95}, r"level=0\.95"),
        ({"level": 0}, "level=0"),
        ({"floor": 0}, "floor=0"),
        ({"floor": 1.0}, r"floor=1\.0"),
        ({"capacity": 0}, "capacity=0"),
        ({"capacity": 2}, "capacity=2"),
        ({"capacity": math.nan}, "capacity=nan"),
        ({"capacity": 0.25, "floor": 4}, r"capacity=0\.25.*a floor of 4 keeps 4"),
    ],
)
def test_a_constant_that_is_not_allowed_is_named_and_the_model_stays_as_it_was(options, message):
    communities = communities_of()
    with pytest.raises(ValueError, match=message):
        natsel.Evolution(communities, **options)
    assert type(communities.model[2]) is nn.Linear
    natsel.Evolution(communities)


def test_a_model_without_a_community_is_refused():
    communities = natsel.discover(nn.Sequential(nn.Linear(4, 3)), (torch.zeros(1, 4),))
    with pytest.raises(ValueError, match="at least one community"):
        natsel.Evolution(communities)


def test_two_evolutions_on_one_model_are_refused():
    communities = communities_of()
    natsel.Evolution(communities, fitness="wanda")
    num_hooks = sum(len(m._forward_pre_hooks) for m in communities.model.modules())
    with pytest.raises(ValueError, match="one Evolution per model"):
        natsel.Evolution(communities, fitness="wanda")
    assert sum(len(m._forward_pre_hooks) for m in communities.model.modules()) == num_hooks


def test_a_parametrization_of_the_users_own_is_refused_before_any_gate_is_set():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    communities = communities_of(model)
    nn.utils.parametrizations.orthogonal(model[4], "bias" if False else "weight")
    with pytest.raises(ValueError, match=r"4\.weight has a parametrization.*remedy"):
        natsel.Evolution(communities)
    assert type(model[2]) is nn.Linear


def test_gates_start_at_the_initial_mass_and_laws_on_the_simplex_at_one():
    for dynamics, mass in (("logistic", 0.9), ("replicator", 1.0)):
        communities = communities_of()
        evolution = natsel.Evolution(communities, dynamics=dynamics)
        assert torch.equal(evolution.masses["0"], torch.full((8,), mass))
        weight = communities.model[2]._parameters["weight"]
        torch.testing.assert_close(communities.model[2].weight, weight * mass)
