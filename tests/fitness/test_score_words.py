"""A score that saw nothing is refused with the reason; one that tells nothing is said."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import natsel
from natsel.fitness import FITNESS

WITH_GRADIENT = sorted(n for n, f in FITNESS.items() if f.needs_gradient)
WITH_STATISTIC = sorted(n for n, f in FITNESS.items() if f.statistic)
X, IGNORED = torch.randn(5, 4), torch.full((5,), -100)
Y = torch.tensor([0, 1, 2, 0, 1])
NO_SAMPLE = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))


@pytest.fixture
def communities():
    torch.manual_seed(0)
    return natsel.discover(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), X)


@pytest.mark.parametrize("name", WITH_GRADIENT)
@pytest.mark.parametrize(
    "data",
    [[(X, IGNORED)], [NO_SAMPLE], [(X, IGNORED), NO_SAMPLE]],
    ids=["ignored", "none", "both"],
)
def test_a_loss_that_sees_no_label(communities, name, data):
    with pytest.raises(ValueError, match=r"^data='no sample with a label' .*not all -100"):
        natsel.score(communities, name, data=data)


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_batches_without_a_label_do_not_count(communities, name):
    plain = natsel.score(communities, name, data=[(X, Y)])
    mixed = natsel.score(communities, name, data=[(X, IGNORED), (X, Y), NO_SAMPLE])
    assert torch.equal(plain["0"], mixed["0"])


@pytest.mark.parametrize("name", WITH_STATISTIC)
def test_activations_of_no_sample(communities, name):
    with pytest.raises(ValueError, match=r"^data='no sample"):
        natsel.score(communities, name, data=[NO_SAMPLE])


def test_a_criterion_of_the_users_own_decides_which_labels_count(communities):
    labels = torch.full((5, 3), -100.0)
    scores = natsel.score(communities, "taylor", data=[(X, labels)], criterion=F.mse_loss)
    assert bool(scores["0"].any())


def test_a_label_that_is_no_class(communities):
    with pytest.raises(ValueError, match=r"^data=<int64 tensor of shape \(5,\)> .*out of bounds"):
        natsel.score(communities, "taylor", data=[(X, torch.full((5,), 9))])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("magnitud",), r"^scorer='magnitud' .*did you mean 'magnitude'"),
        ((torch.rand(3),), r"^scorer=<float32 tensor of shape \(3,\)> .*one of"),
        (("taylor", 3), "^data=3 .*an iterable of batches"),
    ],
)
def test_arguments_are_named_as_they_are(communities, arguments, told):
    scorer, data = (*arguments, None)[:2]
    with pytest.raises(ValueError, match=told):
        natsel.score(communities, scorer, data=data)


def test_a_model_is_no_communities(communities):
    with pytest.raises(ValueError, match=r"^communities=<Sequential> .*natsel\.discover"):
        natsel.score(communities.model, "magnitude")


def test_scores_that_tell_nothing_are_said_once(communities):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        scores = natsel.score(communities, "variance", data=[(X[:1],)])
        natsel.select(scores, natsel.Sparsity(0.5))
    (warning,) = found
    assert warning.filename == __file__
    assert str(warning.message).startswith("scores by 'variance' are all 0 in 0: they tell no")


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.o = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.o(self.a(x, x, x)[0])


def test_a_consumer_that_is_never_called_is_refused_by_the_scorer_that_was_asked():
    x = torch.randn(2, 5, 4)
    communities = natsel.discover(Attention(), x)
    heads = communities.only("head")
    assert list(heads) == ["a"]
    with pytest.raises(ValueError, match=r"^scorer='wanda' is not allowed for community 'a'"):
        natsel.score(heads, "wanda", data=[(x,)])
    with pytest.raises(ValueError, match=r"^fitness='wanda' is not allowed for community 'a'"):
        natsel.Evolution(communities, fitness="wanda")


# The training loop.


def test_a_step_without_gradients_names_no_argument(communities):
    evolution = natsel.Evolution(communities)
    with pytest.raises(ValueError, match=r"^no gradient was found: call evolution\.step"):
        evolution.step()
    F.cross_entropy(communities.model(X), IGNORED).backward()
    with pytest.raises(ValueError, match="without samples or labels"):
        evolution.step()


def test_a_frozen_weight_is_named(communities):
    evolution = natsel.Evolution(communities, fitness="gradient")
    for parameter in communities.model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match=r"weight requires no gradient: a frozen weight tells no"):
        evolution.step()


@pytest.mark.parametrize("floor", [8, 99])
def test_a_floor_under_which_nobody_can_go_extinct(communities, floor):
    with pytest.raises(ValueError, match=rf"^floor={floor} .*less than 8, .*nobody can go extinct"):
        natsel.Evolution(communities, floor=floor)
    natsel.Evolution(communities, floor=7)


def test_a_floor_above_one_community_is_said():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 2))
    communities = natsel.discover(net, X)
    with pytest.warns(UserWarning, match=r"floor=5 is above the size of '2' \(3\): it stays whole"):
        natsel.Evolution(communities, floor=5)
