"""natsel.score: every scorer gives one finite number per population and leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import natsel
from natsel import models
from natsel.common.errors import NonFiniteError
from natsel.fitness import FITNESS, Fitness

WITH_DATA = sorted(n for n, f in FITNESS.items() if f.needs_gradient or f.statistic)
WITH_GRADIENT = sorted(n for n, f in FITNESS.items() if f.needs_gradient)


@pytest.fixture(scope="module")
def network():
    model = models.build("cnn", in_shape=(1, 8, 8), num_classes=10, widths=(4, 6), seed=0)
    model.train()
    model.features[1].eval()
    batches = [(torch.randn(4, 1, 8, 8), torch.randint(10, (4,))) for _ in range(2)]
    return model, natsel.discover(model, (batches[0][0],)), batches


@pytest.mark.parametrize("name", sorted(FITNESS))
def test_a_scorer_gives_one_number_each_and_leaves_the_model_alone(network, name):
    model, communities, batches = network
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    tensors = {n: t.clone() for n, t in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    hooks = sum(len(m._forward_pre_hooks) for m in model.modules())
    state = torch.get_rng_state()
    scores = natsel.score(communities, name, data=batches)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == hooks
    assert all(torch.equal(t, tensors[n]) for n, t in model.state_dict().items())
    assert all(bool((p.grad == 3.0).all()) for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert list(scores) == list(communities)
    for community, value in scores.items():
        assert value.shape == (communities[community].size,)
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
        if not FITNESS[name].signed:
            assert (value >= 0).all()
            assert value.unique().numel() > 1


@pytest.mark.parametrize("name", WITH_DATA)
def test_data_that_is_missing_or_empty_is_refused(network, name):
    _, communities, _ = network
    with pytest.raises(ValueError, match=r"data=None is not allowed.*batches"):
        natsel.score(communities, name)
    with pytest.raises(ValueError, match="at least one batch"):
        natsel.score(communities, name, data=[])


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_batches_without_labels_are_refused_where_there_is_a_loss(network, name):
    _, communities, batches = network
    with pytest.raises(ValueError, match="labels"):
        natsel.score(communities, name, data=[(x,) for x, _ in batches])


@pytest.mark.parametrize("name", WITH_DATA)
def test_bare_tensors_are_no_batches(network, name):
    _, communities, batches = network
    with pytest.raises(ValueError, match="tuples"):
        natsel.score(communities, name, data=[x for x, _ in batches])


@pytest.mark.parametrize("name", ["variance", "wanda"])
def test_activations_need_no_labels(network, name):
    _, communities, batches = network
    with_labels = natsel.score(communities, name, data=batches)
    without = natsel.score(communities, name, data=[(x,) for x, _ in batches])
    assert all(torch.equal(with_labels[n], without[n]) for n in communities)


def test_a_score_can_be_taken_where_gradients_are_off_or_weights_frozen(network):
    _, communities, batches = network
    expected = natsel.score(communities, "taylor", data=batches)
    with torch.no_grad():
        found = natsel.score(communities, "taylor", data=batches)
    assert all(torch.equal(found[n], expected[n]) for n in communities)
    frozen = copy.deepcopy(communities)
    frozen.model.head.weight.requires_grad_(False)
    found = natsel.score(frozen, "taylor", data=batches)
    assert all(torch.equal(found[n], expected[n]) for n in communities)
    assert not frozen.model.head.weight.requires_grad


def test_a_function_of_the_users_own_is_a_scorer(network):
    _, communities, batches = network

    def saliency(parts):
        return sum(p.per_population((p.weight * p.gradient).abs()) for p in parts.consumers)

    scores = natsel.score(communities, saliency, data=batches)
    taylor = natsel.score(communities, "taylor", data=batches)
    assert all((scores[n] >= taylor[n] - 1e-6).all() for n in communities)
    free = Fitness("mass", lambda parts: parts.mass)
    assert all((v == 1).all() for v in natsel.score(communities, free).values())


def test_a_scorer_that_fails_is_named(network):
    _, communities, batches = network
    first = next(iter(communities))

    def undefined(parts):
        return parts.mass * float("nan")

    def short(parts):
        return parts.mass[1:]

    with pytest.raises(NonFiniteError, match=f"'undefined' gave NaN or infinity in '{first}'"):
        natsel.score(communities, undefined, data=batches)
    with pytest.raises(ValueError, match=r"scorer='short' is not allowed.*shape \[4\]"):
        natsel.score(communities, short, data=batches)
    with pytest.raises(ValueError, match=r"scorer='tailor'.*did you mean 'taylor'"):
        natsel.score(communities, "tailor", data=batches)


def test_activation_signals_refuse_consumers_they_cannot_read():
    class Matrix(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 6)
            self.weight = nn.Parameter(torch.randn(3, 6))

        def forward(self, x):
            return nn.functional.linear(torch.relu(self.first(x)), self.weight)

    model = Matrix()
    communities = natsel.discover(model, (torch.randn(2, 4),))
    with pytest.raises(ValueError, match="not a Linear"):
        natsel.score(communities, "wanda", data=[(torch.randn(2, 4),)])
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert natsel.score(communities, "magnitude")["first"].shape == (6,)


def test_a_weight_that_is_read_both_ways_makes_what_it_reads():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(5, 6)

        def forward(self, x):
            return torch.nn.functional.linear(self.a(x).tanh(), self.a.weight.t())

    model = Tied()
    communities = natsel.discover(model, torch.randn(2, 5))
    norms = model.a.weight.detach().norm(dim=1)
    torch.testing.assert_close(natsel.score(communities, "magnitude-in")["a"], norms)
