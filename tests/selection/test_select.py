"""natsel.select on arrays small enough to see the answer."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import natsel
from natsel import Sparsity, select
from natsel.common.errors import NonFiniteError

T = torch.tensor
shares = st.floats(0, 0.9).map(lambda x: round(x, 3))


def kept(survivors, name="a"):
    return survivors[name].int().tolist()


def test_the_lowest_go():
    assert kept(select({"a": T([0.4, 0.1, 0.3, 0.2])}, Sparsity(0.5))) == [1, 0, 1, 0]
    assert kept(select({"a": T([0.4, 0.1, 0.3, 0.2])}, Sparsity(0.0))) == [1, 1, 1, 1]
    assert kept(select({"a": T([-4.0, 1.0, -3.0, 2.0])}, Sparsity(0.25))) == [0, 1, 1, 1]


def test_ties_go_by_fitness_then_by_index():
    equal = {"a": torch.ones(4)}
    assert kept(select(equal, Sparsity(0.5))) == [1, 1, 0, 0]
    fitness = {"a": T([1.0, 3.0, 2.0, 2.0])}
    assert kept(select(equal, Sparsity(0.25), ties=fitness)) == [0, 1, 1, 1]
    assert kept(select(equal, Sparsity(0.5), ties=fitness)) == [0, 1, 1, 0]
    uneven = {"a": T([9.0, 1.0, 1.0, 1.0])}
    assert kept(select(uneven, Sparsity(0.5), ties=fitness)) == [1, 1, 0, 0]


def test_half_a_population_rounds_up():
    assert kept(select({"a": T([1.0, 2.0, 3.0, 4.0, 5.0])}, Sparsity(0.5))) == [0, 0, 0, 1, 1]


@given(shares, st.integers(1, 10_000))
def test_the_count_is_exact_in_the_decimal_that_was_written(share, size):
    exact = Fraction(str(share)) * size
    assert Sparsity(share).count(size) == math.floor(exact + Fraction(1, 2))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, -2.0, 1e-30]), min_size=1, max_size=40),
    shares,
    st.sampled_from(["community", "global"]),
    st.sampled_from(["rank", "mean", None]),
)
def test_the_count_is_exact_whatever_ties(values, share, scope, normalize):
    scores = {"a": T(values)}
    num_removed = Sparsity(share).count(len(values))
    if num_removed == len(values):
        with pytest.raises(ValueError, match="floor"):
            select(scores, Sparsity(share), scope=scope, normalize=normalize)
        return
    survivors = select(scores, Sparsity(share), scope=scope, normalize=normalize)
    assert survivors.num_removed == num_removed
    if num_removed > 0:
        assert scores["a"][survivors["a"]].min() >= scores["a"][~survivors["a"]].max()


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 30), st.integers(2, 30), shares, st.integers(0, 1000))
def test_a_global_count_is_exact_and_keeps_the_floor(first, second, share, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = {"a": torch.rand(first, generator=generator), "b": torch.ones(second)}
    num_removed = Sparsity(share).count(first + second)
    if num_removed > first + second - 4:
        with pytest.raises(ValueError, match="at most"):
            select(scores, Sparsity(share), scope="global", floor=2)
        return
    survivors = select(scores, Sparsity(share), scope="global", floor=2)
    assert survivors.num_removed == num_removed
    assert all(int(m.sum()) >= 2 for m in survivors.values())


def test_trap_one_saturated_masses_tie():
    """All survivors at the upper clamp, all extinct at the lower: a threshold cannot split them."""
    masses = torch.cat([torch.zeros(6), torch.full((10,), 0.999)])
    fitness = torch.arange(16.0)
    k = Sparsity(0.5).count(16)
    threshold = masses.sort().values[k]
    assert int((masses < threshold).sum()) == 6, "a threshold that keeps ties removes too few"
    assert int((masses <= threshold).sum()) == 16, "and one that removes ties removes everything"
    survivors = select({"a": masses}, Sparsity(0.5), ties={"a": fitness})
    assert survivors.num_removed == 8
    assert kept(survivors) == [0] * 8 + [1] * 8


def test_trap_two_raw_scores_of_different_layers_wipe_one_out():
    scores = {"small": T([0.01, 0.02, 0.03, 0.04]), "large": T([10.0, 20.0, 30.0, 40.0])}
    raw = select(scores, Sparsity(0.5), scope="global", normalize=None, floor=0)
    assert kept(raw, "small") == [0, 0, 0, 0]
    assert kept(raw, "large") == [1, 1, 1, 1]
    for normalize in ("rank", "mean"):
        fair = select(scores, Sparsity(0.5), scope="global", normalize=normalize)
        assert kept(fair, "small") == [0, 0, 1, 1]
        assert kept(fair, "large") == [0, 0, 1, 1]
    floored = select(scores, Sparsity(0.5), scope="global", normalize=None)
    assert kept(floored, "small") == [0, 0, 0, 1]
    assert kept(floored, "large") == [0, 1, 1, 1]


def test_mean_normalisation_lets_communities_shrink_unevenly():
    scores = {"even": T([1.0, 1.1, 0.9, 1.0]), "uneven": T([4.0, 0.0, 0.0, 0.0])}
    survivors = select(scores, Sparsity(0.375), scope="global", normalize="mean")
    assert kept(survivors, "even") == [1, 1, 1, 1]
    assert kept(survivors, "uneven") == [1, 0, 0, 0]
    zero = {"a": torch.zeros(2), "b": T([1.0, 2.0])}
    assert kept(select(zero, Sparsity(0.25), scope="global", normalize="mean"), "a") == [1, 0]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=30),
    shares,
    st.sampled_from(["community", "global"]),
)
def test_increasing_functions_of_a_score_select_the_same(values, share, scope):
    scores = {"a": T(values).double(), "b": T(values[::-1]).double()}
    budget = Sparsity(min(share, 0.5) if len(values) > 1 else 0.0)
    expected = select(scores, budget, scope=scope)
    for f in (torch.atan, torch.exp, lambda x: 3 * x - 7, lambda x: x**3):
        found = select({n: f(s / 10) for n, s in scores.items()}, budget, scope=scope)
        assert all(torch.equal(found[n], expected[n]) for n in scores)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 1, 3), (1, 6, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_unstructured_weights_of_any_shape(shape, dtype):
    weight = T([6, 1, 5, 2, 4, 3]).to(dtype).reshape(shape)
    survivors = select({"w": weight}, Sparsity(0.5))
    assert survivors["w"].shape == shape
    assert survivors["w"].reshape(-1).int().tolist() == [1, 0, 1, 0, 1, 0]


def test_a_scalar_community_survives():
    assert select({"w": T(3.0)}, Sparsity(0.2))["w"].tolist() is True


def test_the_floor_holds_in_each_community():
    with pytest.raises(ValueError, match="floor of 3"):
        select({"a": torch.rand(4)}, Sparsity(0.5), floor=3)
    assert kept(select({"a": T([1.0, 2.0])}, Sparsity(0.9), floor=0)) == [0, 0]


@pytest.mark.parametrize("value", [1, 1.0, -0.1, 2, math.nan, math.inf, True, False, "0.5", None])
def test_a_sparsity_outside_its_interval_is_refused(value):
    with pytest.raises(ValueError, match=r"sparsity=.*\[0, 1\)"):
        Sparsity(value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused(bad):
    with pytest.raises(NonFiniteError, match=r"scores\['a'\]"):
        select({"a": T([1.0, bad])}, Sparsity(0.5))
    with pytest.raises(NonFiniteError, match=r"ties\['a'\]"):
        select({"a": T([1.0, 1.0])}, Sparsity(0.5), ties={"a": T([1.0, bad])})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "layer"}, "scope='layer'"),
        ({"normalize": "ranks"}, "normalize='ranks'.*did you mean 'rank'"),
        ({"normalize": "max", "scope": "global"}, "normalize='max'"),
        ({"floor": -1}, "floor=-1"),
        ({"floor": True}, "floor=True"),
        ({"floor": 1.5}, r"floor=1\.5"),
        ({"ties": {"a": torch.ones(3)}}, r"ties\['a'\]"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        select({"a": torch.ones(4)}, Sparsity(0.5), **options)


def test_what_is_no_budget_or_no_score_is_refused():
    with pytest.raises(ValueError, match=r"budget=0\.5"):
        select({"a": torch.ones(4)}, 0.5)
    with pytest.raises(ValueError, match="at least one community"):
        select({}, Sparsity(0.5))
    with pytest.raises(ValueError, match="empty"):
        select({"a": torch.ones(0)}, Sparsity(0.5))


def test_scores_of_another_model_are_refused():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    communities = natsel.discover(model, (torch.zeros(1, 4),))
    for scores in ({"0": torch.ones(7)}, {"1": torch.ones(8)}):
        with pytest.raises(ValueError, match="scores="):
            select(scores, Sparsity(0.5), communities=communities)


def test_survivors_are_decisions_and_not_numbers():
    with pytest.raises(ValueError, match="booleans"):
        natsel.Survivors({"a": T([0.0, 1.0])})
    with pytest.raises(ValueError, match="booleans"):
        natsel.Survivors({"a": [True, False]})


def test_the_given_scores_stay_as_they_are():
    scores = {"a": T([3.0, 1.0, 2.0])}
    survivors = select(scores, Sparsity(0.34), scope="global")
    assert scores["a"].tolist() == [3.0, 1.0, 2.0]
    assert survivors.sparsity == pytest.approx(1 / 3)
    assert repr(survivors) == "Survivors(a: 2/3)"
