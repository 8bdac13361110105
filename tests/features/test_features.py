"""Features: functions of a rank, as complex as they say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from natsel.features import (
    CLASSES,
    FEATURES,
    NINE,
    Feature,
    feature_class,
    feature_matrix,
    fuse,
    matrices,
    measure,
    mutual_information,
    rank_correlation,
    ranks,
    register,
    standardised,
)
from natsel.features.logistic_map import INDICATORS, lyapunov, mean, orbit, peak
from natsel.selection import Sparsity, select

GRID = torch.linspace(0, 1, 257, dtype=torch.float64)


@pytest.mark.parametrize("name", FEATURES)
def test_measured_complexity_is_the_declared_one(name: str) -> None:
    assert measure(FEATURES[name].function).kappa == FEATURES[name].kappa


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_is_a_pure_finite_function_of_each_rank(name: str) -> None:
    function = FEATURES[name].function
    values = function(GRID)
    assert values.shape == GRID.shape
    assert values.dtype == torch.float64
    assert bool(torch.isfinite(values).all())
    assert torch.equal(values, function(GRID))
    one_by_one = torch.cat([function(u[None]) for u in GRID[:5]])
    assert torch.allclose(one_by_one, values[:5], atol=1e-9)


def test_the_nine_classes_of_the_paper_are_three_monotone_three_smooth_two_raw_one_fake() -> None:
    families = [CLASSES[name].family for name in NINE]
    assert families == ["monotone"] * 3 + ["smooth"] * 3 + ["raw"] * 2 + ["fake"]
    named = ["V1a", "V1b", "V1d", "V1", "A5_Log6_smooth", "NL_sin", "A5", "A5_Log6", "PureMag4"]
    assert list(NINE) == named
    assert {"Weier4", "RandomSpline", "Bump"} <= set(CLASSES)
    assert [CLASSES[name].kappa for name in NINE] == [0, 0, 0, 1, 1, 1, 2, 2, 0]
    assert len(CLASSES["A5_Log6"].features) == 6
    assert len(CLASSES["A5"].features) == 4


def test_ranks_go_from_the_least_to_the_most_and_give_ties_to_the_lower_index() -> None:
    assert ranks(torch.tensor([5.0, 1.0, 3.0])).tolist() == [1.0, 0.0, 0.5]
    assert ranks(torch.tensor([2.0, 2.0, 1.0])).tolist() == [1.0, 0.5, 0.0]
    assert ranks(torch.tensor([7.0])).tolist() == [1.0]


def test_the_orbit_settles_where_theory_says() -> None:
    # r = 2.8 (u = 0) has the fixed point 1 - 1/r, with the exponent log |2 - r|.
    start = torch.zeros(1, dtype=torch.float64)
    assert torch.allclose(orbit(start), torch.full((200, 1), 1 - 1 / 2.8, dtype=torch.float64))
    assert lyapunov(start).item() == pytest.approx(torch.tensor(0.8).log().item(), abs=1e-6)
    # r = 3.2 swings between two states, the larger of which is known in closed form.
    u = torch.tensor([(3.2 - 2.8) / 1.2], dtype=torch.float64)
    high = (3.2 + 1 + ((3.2 - 3) * (3.2 + 1)) ** 0.5) / (2 * 3.2)
    assert peak(u).item() == pytest.approx(high, abs=1e-9)
    assert mean(u).item() == pytest.approx((3.2 + 1) / (2 * 3.2), abs=1e-9)
    # Near r = 4 the exponent is log 2.
    end = torch.tensor([0.9999], dtype=torch.float64)
    assert lyapunov(end).item() == pytest.approx(torch.tensor(2.0).log().item(), abs=0.1)


def test_indicators_agree_with_a_plain_loop() -> None:
    u = 0.5  # a cycle: in chaos the rounding of r decides after a hundred steps
    r, x, states = 2.8 + 1.2 * u, 0.5, []
    for step in range(400):
        x = r * x * (1 - x)
        if step >= 200:
            states.append(x)
    expected = {
        "peak": max(states),
        "minimum": min(states),
        "range": max(states) - min(states),
        "mean": sum(states) / 200,
    }
    for name, value in expected.items():
        got = INDICATORS[name](torch.tensor([u], dtype=torch.float64)).item()
        assert got == pytest.approx(value, abs=1e-9)


@given(st.lists(st.integers(-3, 3), min_size=4, max_size=12), st.floats(0.05, 0.7))
def test_lemma_monotone_features_select_what_the_statistic_selects(
    values: list[int], share: float
) -> None:
    statistic = {"a": torch.tensor(values, dtype=torch.float64)}
    budget = Sparsity(share)
    plain = select(statistic, budget)["a"]
    for made in CLASSES.values():
        if made.family == "monotone":
            fused = fuse(matrices(statistic, made.features))
            assert torch.equal(select(fused, budget)["a"], plain)


def test_fusion_is_a_weighted_sum_of_standardised_features() -> None:
    u = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    phi = {"a": feature_matrix(u, [FEATURES["identity"], FEATURES["square"]])}
    assert torch.allclose(phi["a"].mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(phi["a"].std(0, correction=0), torch.ones(2, dtype=torch.float64))
    weights = torch.tensor([2.0, -1.0])
    expected = 2 * phi["a"][:, 0] - phi["a"][:, 1]
    assert torch.allclose(fuse(phi, weights)["a"], expected)
    assert torch.allclose(fuse(phi)["a"], phi["a"].mean(1))


def test_each_community_may_have_weights_of_its_own() -> None:
    phi = {"a": torch.eye(2), "b": torch.eye(2)}
    found = fuse(phi, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert found["a"].tolist() == [1.0, 2.0]
    assert found["b"].tolist() == [3.0, 4.0]


def test_a_constant_feature_has_no_say() -> None:
    assert standardised(torch.full((3,), 5.0)).tolist() == [0.0, 0.0, 0.0]


def test_independence_of_what_is_known() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(4096, generator=generator, dtype=torch.float64)
    u = torch.linspace(0, 1, 4096, dtype=torch.float64)
    assert rank_correlation(u**3, u) == pytest.approx(1.0)
    assert mutual_information(u**3, u) == pytest.approx(1.0)
    assert rank_correlation((u - 0.5) ** 2, u) < 0.01
    assert mutual_information((u - 0.5) ** 2, u) > 0.7
    assert rank_correlation(noise, u) < 0.05
    assert mutual_information(noise, u) < 0.05
    assert rank_correlation(torch.ones(9), torch.arange(9.0)) == 0.0


def test_random_splines_differ_by_seed_only() -> None:
    first, again, other = (feature_class("RandomSpline", seed=s).features for s in (1, 1, 2))
    values = [torch.stack([f.function(GRID) for f in made]) for made in (first, again, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.allclose(values[0], values[2])


def test_bad_input_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"class='V9' is not allowed"):
        feature_class("V9")
    with pytest.raises(ValueError, match="kappa=3 is not allowed"):
        register(Feature("x", torch.sin, kappa=3))
    with pytest.raises(ValueError, match="already registered"):
        register(FEATURES["bump"])
    with pytest.raises(ValueError, match="at least one feature"):
        matrices({"a": torch.ones(2)}, [])
    with pytest.raises(ValueError, match=r"weights='shape \[3\]'"):
        fuse({"a": torch.eye(2)}, torch.ones(3))
