"""What a gate test removes: enough to tell a wrong removal from one that is masking."""

from itertools import combinations

import pytest
import torch
from exactness import Net, found, offered, reasons
from torch import nn

import natsel
from natsel.communities.community import Community, Cost
from natsel.communities.proof.selections import choices


def communities(*sizes, minimum=1):
    return [
        Community(f"c{i}", "neuron", size, Cost(1, 1.0), (), minimum=minimum)
        for i, size in enumerate(sizes)
    ]


def shares(members):
    """Per community, the share that it keeps in each selection."""
    selections = list(choices(members))
    return [tuple(float(s[c.name].sum()) / c.size for s in selections) for c in members]


CASES = {
    "one": [6],
    "pairs": [2, 2, 2],
    "many pairs and a wide one": [2] * 20 + [512],
    "pairs and triples": [2, 3, 2, 3],
    "heads and neurons": [6] * 12 + [1536] * 12,
    "many heads": [6] * 48,
}


@pytest.mark.parametrize("sizes", CASES.values(), ids=CASES)
def test_every_community_loses_something_at_least_once(sizes):
    assert all(min(course) < 1 for course in shares(communities(*sizes)))


@pytest.mark.parametrize("sizes", CASES.values(), ids=CASES)
def test_any_two_communities_keep_different_shares_at_least_once(sizes):
    assert all(a != b for a, b in combinations(shares(communities(*sizes)), 2))


def test_one_community_keeps_different_shares():
    (course,) = shares(communities(64))
    assert len(set(course)) > 1


def test_as_many_stay_as_must():
    for selection in choices(communities(4, 8, minimum=2)):
        assert all(int(alive.sum()) >= 2 for alive in selection.values())


def test_there_are_no_more_selections_than_it_takes():
    assert [len(list(choices(communities(*[6] * n)))) for n in (1, 12, 48)] == [2, 2, 3]


def test_the_third_of_three_pairs_is_tested_too():
    model = Net(
        lambda m, x: m.d(divided(torch.tanh(m.c(torch.tanh(m.b(torch.tanh(m.a(x)))))))),
        a=nn.Linear(5, 2),
        b=nn.Linear(2, 2),
        c=nn.Linear(2, 2),
        d=nn.Linear(2, 3),
    )
    communities = found(model, torch.randn(2, 5))
    assert offered(communities) == {"a": ("neuron", 2), "b": ("neuron", 2)}
    assert "c: removing is not masking" in reasons(communities)


def divided(y):
    return y / y.size(1)


def test_a_removal_that_leaves_only_zeros_shows_nothing():
    model = Net(lambda m, x: torch.relu(m.b(m.a(x)) - 29), a=nn.Linear(5, 6), b=nn.Linear(6, 1))
    for layer in (model.a, model.b):
        layer.weight.data = 1 + 0.001 * torch.rand_like(layer.weight)
        layer.bias.data = torch.zeros_like(layer.bias) + 1e-3 * torch.rand_like(layer.bias)
    inputs = torch.ones(2, 5)
    inputs[0, 0] = 1.001
    assert bool((model(inputs) > 0).all())
    communities = natsel.discover(model, (inputs,))
    assert not communities
    assert "nothing can be proven" in reasons(communities)
