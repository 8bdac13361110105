"""What is wrong with a selection is told by name, in one line; what is odd, once."""

import warnings

import pytest
import torch
import torch.nn.utils.prune as masks
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import natsel
from natsel import MACs, Sparsity, select

T = torch.tensor
HALF = Sparsity(0.5)
SCORES = {"a": T([0.1, 0.2, 0.3, 0.4]), "b": torch.arange(40.0)}
WEIGHTS = natsel.Weights({"a": torch.arange(8.0)})


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ({}, r"^scores='empty' .*at least one community"),
        (None, r"^scores=None .*a mapping from names to tensors"),
        ([0.1, 0.2], r"^scores=\[0\.1, 0\.2\] .*a mapping"),
        (torch.rand(1000), r"^scores=<float32 tensor of shape \(1000,\)> .*a mapping"),
        ({"a": [1.0, 2.0]}, r"^scores\['a'\]=\[1\.0, 2\.0\] .*a tensor"),
        ({"a": None}, r"^scores\['a'\]=None .*a tensor"),
        ({"a": T([])}, r"^scores\['a'\]='an empty tensor' .*at least one score"),
        ({"a": T([1 + 1j, 2])}, r"^scores\['a'\]=<complex64 tensor.*real numbers"),
    ],
)
def test_scores_that_are_none(scores, told):
    with pytest.raises(ValueError, match=told) as error:
        select(scores, HALF)
    assert "tensor(" not in str(error.value)


def test_without_communities_the_reason_is_told_again():
    layers = (spectral_norm(nn.Linear(4, 8)), nn.ReLU(), spectral_norm(nn.Linear(8, 3)))
    communities = natsel.discover(nn.Sequential(*layers), torch.randn(2, 4))
    for use in (
        lambda: natsel.score(communities, "magnitude"),
        lambda: select({}, HALF, communities=communities),
    ):
        with pytest.raises(ValueError, match=r"SpectralNorm.*remove_parametrizations"):
            use()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"scope": "globl"}, "did you mean 'global'"),
        ({"normalize": "rnk"}, "rank, mean or None.*did you mean 'rank'"),
        ({"normalize": "none"}, "rank, mean or None$"),
        ({"multiple_of": "atuo"}, "did you mean 'auto'"),
        ({"ties": {"c": torch.rand(4)}}, "ties='c' .*one of a, b"),
        ({"ties": torch.rand(4)}, "ties=<float32 tensor.* a mapping"),
        ({"ties": {"a": [1, 2, 3, 4]}}, r"ties\['a'\]=\[1, 2, 3, 4\] .*a tensor"),
        ({"packed": True, "zero": True}, "^packed=True, zero=True are not allowed"),
        ({"include": "*", "exclude": ["a", "b"]}, r"^include='\*', exclude=\['a', 'b'\] are not"),
        ({"floor": {"a": 5}}, r"^floor\['a'\]=5 .*at most 4, the size of 'a'"),
        ({"floor": torch.ones(3)}, "^floor=<float32 tensor of shape .* a whole number"),
    ],
)
def test_options(options, told):
    with pytest.raises(ValueError, match=told):
        select(SCORES, HALF, **options)


def test_everything_that_weights_do_not_know_is_refused_together():
    told = r"^multiple_of=4, include='a', ties=\{\} are not allowed: expected nothing, for weights"
    with pytest.raises(ValueError, match=told):
        select(WEIGHTS, HALF, multiple_of=4, include="a", ties={})


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: natsel.Latency(0.5, ms=3), "^share=0.5, ms=3 are not allowed: expected either"),
        (lambda: natsel.Latency(), "^share=None, ms=None are not allowed: expected either"),
        (lambda: Sparsity(torch.rand(9, 9)), r"^sparsity=<float32 tensor of shape \(9, 9\)>"),
        (lambda: MACs(torch.rand(9)), r"^macs=<float32 tensor of shape \(9,\)>"),
    ],
)
def test_budgets(build, told):
    with pytest.raises(ValueError, match=told):
        build()


# What is odd is said, and done all the same.


def said(*arguments, **options):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        survivors = select(*arguments, **options)
    assert all(w.filename == __file__ for w in found)
    return survivors, [str(w.message) for w in found]


def test_a_floor_above_a_size():
    survivors, words = said(SCORES, HALF, floor=9, scope="global")
    assert words == ["floor=9 is above the size of 'a' (4): it stays whole"]
    assert bool(survivors["a"].all())
    assert survivors.num_removed == 22
    assert said(SCORES, HALF, floor=2)[1] == []


def test_scores_that_tell_nothing():
    survivors, words = said({"a": torch.zeros(4), "b": torch.arange(4.0)}, HALF)
    assert survivors["a"].tolist() == [True, True, False, False]
    (line,) = words
    assert line.startswith("scores are all 0 in a: they tell no population from another")
    assert "by index" in line
    assert "all equal in a, b" in said({"a": torch.ones(4), "b": torch.ones(3)}, HALF)[1][0]


@pytest.mark.parametrize(
    "options",
    [
        {"budget": Sparsity(0)},
        {"budget": HALF, "ties": {"a": torch.arange(4.0)}},
        {"budget": HALF, "exclude": "a"},
    ],
)
def test_where_nothing_goes_by_index_nothing_is_said(options):
    budget = options.pop("budget")
    assert said({"a": torch.ones(4), "b": torch.arange(3.0)}, budget, **options)[1] == []


def test_a_weight_that_is_computed():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    masks.l1_unstructured(model[0], "weight", 0.5)
    told = r"^model\.0\.weight='its weight is masked .*torch\.nn\.utils\.prune\.remove"
    with pytest.raises(ValueError, match=told):
        natsel.weights(model)


@pytest.mark.parametrize("labels", [torch.full((2,), -100), torch.zeros(0, dtype=torch.long)])
def test_single_weights_by_a_loss_that_sees_no_label(labels):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"^data='no sample with a label' .*-100"):
        natsel.weights(model, scorer="taylor", data=[(torch.randn(len(labels), 4), labels)])
    with pytest.raises(ValueError, match=r"^data="):
        natsel.weights(model, scorer="wanda", data=[(torch.randn(0, 4),)])
