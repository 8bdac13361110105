"""Modules of the user's own: built by what the user names, and given back as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from io_helpers import result
from torch import nn

import natsel
from natsel.communities.tensors import tensors_of


class Own(nn.Module):
    """Tied embeddings, a tensor under two names, buffers of all kinds, a frozen layer."""

    def __init__(self, width=8, *, scale=1.0):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.up = nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(width)
        self.down = nn.Linear(width, 6, bias=False)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        self.register_buffer("noise", torch.rand(width), persistent=False)
        self.up.weight.requires_grad_(False)

    def forward(self, x):
        hidden = torch.relu(self.norm(self.up(self.embed(x)))) * self.noise
        return self.head(self.down(hidden) * self.scale.float())


class Other(Own):
    pass


INPUTS = (torch.tensor([1, 4, 2]),)


def cut(model):
    communities = natsel.discover(model.eval(), INPUTS)
    assert communities
    scores = natsel.score(communities, "magnitude")
    return natsel.extract(model, natsel.select(scores, natsel.Sparsity(0.5))).eval()


@pytest.fixture
def small():
    torch.manual_seed(0)
    return cut(Own(12, scale=0.5))


def assert_same(loaded, small):
    assert torch.equal(result(loaded, INPUTS), result(small, INPUTS))
    mine, theirs = tensors_of(small), tensors_of(loaded)
    assert {n: (t.shape, t.dtype, t.requires_grad) for n, t in mine.items()} == {
        n: (t.shape, t.dtype, t.requires_grad) for n, t in theirs.items()
    }
    assert all(torch.equal(t, theirs[n]) for n, t in mine.items())
    assert loaded.state_dict().keys() == small.state_dict().keys()


def test_by_the_class_and_the_recorded_arguments(small, tmp_path):
    natsel.save(small, tmp_path, constructor=([12], {"scale": 0.5}))
    loaded = natsel.load(tmp_path, constructor=Own)
    assert_same(loaded, small)
    assert loaded.head.weight is loaded.embed.weight
    assert not loaded.up.weight.requires_grad
    assert loaded.norm.num_features == 6


def test_by_a_model_of_the_same_architecture_whatever_its_flags_and_values(small, tmp_path):
    natsel.save(small, tmp_path)
    dense = Own(12)
    dense.up.weight.requires_grad_(True)
    before = copy.deepcopy(dense.state_dict())
    assert_same(natsel.load(tmp_path, model=dense), small)
    assert all(torch.equal(t, before[n]) for n, t in dense.state_dict().items())
    assert dense.head.weight is dense.embed.weight


def test_by_a_function_that_makes_one(small, tmp_path):
    natsel.save(small, tmp_path)
    assert_same(natsel.load(tmp_path, constructor=lambda: Own(12)), small)


def test_arguments_that_the_model_has_itself(small, tmp_path):
    small.constructor = ((12,), {"scale": 0.5})
    natsel.save(small, tmp_path)
    assert_same(natsel.load(tmp_path, constructor=Own), small)


def test_arguments_are_kept_when_the_model_is_cut_again(small, tmp_path):
    natsel.save(small, tmp_path / "one", constructor=((12,), {}))
    second = cut(natsel.load(tmp_path / "one", constructor=Own))
    natsel.save(second, tmp_path / "two")
    assert second.up.out_features == 3
    assert_same(natsel.load(tmp_path / "two", constructor=Own), second)


@pytest.mark.parametrize("tied", [True, False])
def test_ties_are_those_of_the_small_model_not_of_the_class(tmp_path, tied):
    model = Own()
    if tied:
        model.extra = nn.Linear(6, 11, bias=False)
        model.extra.weight = model.embed.weight
    else:
        model.head.weight = nn.Parameter(torch.randn(11, 6))
    small = cut(model)
    natsel.save(small, tmp_path)
    dense = Own()
    if tied:
        dense.extra = nn.Linear(6, 11, bias=False)
    loaded = natsel.load(tmp_path, model=dense)
    assert_same(loaded, small)
    assert (loaded.head.weight is loaded.embed.weight) is tied
    if tied:
        assert loaded.extra.weight is loaded.embed.weight


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Own"),
        ({"constructor": Other}, "Own, the class that was saved"),
        ({"constructor": lambda *a, **k: Other(12)}, "Own, the class that was saved"),
        ({"constructor": nn.ReLU}, "Own, the class that was saved"),
        ({"constructor": lambda: Own(12)}, "the recorded arguments"),
        ({"constructor": lambda *a, **k: Own(3)}, "at least the saved"),
        ({"model": nn.Linear(2, 2)}, "the architecture that was saved"),
        ({"model": Own(3)}, "at least the saved"),
        ({"model": Own(12), "constructor": Own}, "None where model is given"),
    ],
)
def test_another_class_is_refused(small, tmp_path, given, message):
    natsel.save(small, tmp_path, constructor=((12,), {"scale": 0.5}))
    with pytest.raises(ValueError, match=message):
        natsel.load(tmp_path, **given)


@pytest.mark.parametrize(
    "constructor",
    [12, (12,), ((12,), 3), ({}, {}), ((torch.zeros(2),), {}), ((), {"a": float("nan")})],
)
def test_arguments_that_json_cannot_hold_are_refused(small, tmp_path, constructor):
    with pytest.raises(ValueError, match="constructor"):
        natsel.save(small, tmp_path / "small", constructor=constructor)
    assert not (tmp_path / "small").exists()
