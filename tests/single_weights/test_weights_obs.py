"""What optimal brain surgery leaves, beside exact least squares on tiny matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from natsel.single_weights.alternating import alternate
from natsel.single_weights.obs import damped_moments, error, solve
from natsel.single_weights.patterns import Given, OfGroups, OfMatrix, OfRows, Pattern, keep
from natsel.single_weights.refit import refit


def exact(weight: Tensor, moments: Tensor, mask: Tensor) -> Tensor:
    """Return the least squares solution of each row, by a plain solve."""
    result = torch.zeros_like(weight)
    for row, kept in enumerate(mask):
        if kept.any():
            inner = moments[kept][:, kept]
            result[row, kept] = torch.linalg.solve(inner, (weight[row] @ moments)[kept])
    return result


def layer(seed: int, rows: int = 5, columns: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    x = torch.randn(50, columns, generator=generator, dtype=torch.float64) @ mixing
    return weight, x.T @ x / len(x)


@given(seed=st.integers(0, 1000), share=st.floats(0.1, 0.9), damping=st.sampled_from([1e-3, 0.1]))
def test_the_refit_is_the_exact_least_squares(seed: int, share: float, damping: float) -> None:
    weight, second = layer(seed)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) > share
    moments = damped_moments(second, damping)
    best = exact(weight, moments, mask)
    # In exact arithmetic as many steps as columns do; rounding asks for a few more.
    found = refit(weight, second, mask, damping=damping, steps=8)
    assert error(weight, found, moments) <= error(weight, best, moments) * (1 + 1e-4) + 1e-9
    assert not found[~mask].any()


def test_a_refit_spelled_out() -> None:
    # Two inputs that are always equal: who stays does the work of both.
    weight, second = torch.tensor([[1.0, 2.0]]), torch.ones(2, 2)
    found = refit(weight, second, torch.tensor([[False, True]]), damping=1e-9)
    torch.testing.assert_close(found, torch.tensor([[0.0, 3.0]]))


@given(seed=st.integers(0, 1000), width=st.sampled_from([1, 3, 8]), ordered=st.booleans())
def test_one_weight_of_a_row_goes_by_the_formula(seed: int, width: int, ordered: bool) -> None:
    """Of a given mask that removes one weight a row, the update is the optimum itself."""
    weight, second = layer(seed)
    mask = torch.ones_like(weight, dtype=torch.bool)
    first = int(second.diagonal().argmax()) if ordered else 0  # what all others come after
    mask[:, first] = False
    found = solve(weight, second, Given(mask), damping=1e-3, width=width, ordered=ordered)
    best = exact(weight, damped_moments(second, 1e-3), mask)
    torch.testing.assert_close(found.weight, best)


@given(
    seed=st.integers(0, 1000),
    width=st.sampled_from([1, 2, 4, 5, 8, 128]),
    ordered=st.booleans(),
    num=st.integers(0, 7),
)
def test_counts_are_exact(seed: int, width: int, ordered: bool, num: int) -> None:
    weight, second = layer(seed)
    options = {"width": width, "ordered": ordered}
    rows = solve(weight, second, OfRows(num), **options)  # type: ignore[arg-type]
    assert (rows.mask.sum(1) == 8 - num).all()
    whole = solve(weight, second, OfMatrix(5 * num + 1), **options)  # type: ignore[arg-type]
    assert whole.mask.sum() == 40 - 5 * num - 1
    groups = solve(weight, second, OfGroups(2, 4), **options)  # type: ignore[arg-type]
    assert (groups.mask.view(5, 2, 4).sum(2) == 2).all()
    for found in (rows, whole, groups):
        assert not found.weight[~found.mask].any()


@given(
    seed=st.integers(0, 1000), pattern=st.sampled_from([OfRows(4), OfMatrix(20), OfGroups(2, 4)])
)
def test_no_way_is_worse_than_masking_and_none_better_than_the_best(
    seed: int, pattern: Pattern
) -> None:
    weight, second = layer(seed)
    moments = damped_moments(second, 1e-3)
    found = solve(weight, second, pattern, damping=1e-3)
    masked = error(weight, weight * found.mask, moments)
    best = error(weight, exact(weight, moments, found.mask), moments)
    assert best * (1 - 1e-9) <= error(weight, found.weight, moments)
    refitted = refit(weight, second, found.mask, start=found.weight, damping=1e-3)
    assert error(weight, refitted, moments) <= error(weight, found.weight, moments) * (1 + 1e-9)
    assert error(weight, refitted, moments) <= masked * (1 + 1e-9)
    mask = alternate(weight, second, pattern, damping=1e-3)
    assert mask.sum() == 20
    assert torch.equal(mask, keep(mask.double(), pattern))


def test_alternating_masks_beat_those_by_norms_on_average() -> None:
    gains = []
    for seed in range(20):
        weight, second = layer(seed, rows=16, columns=32)
        moments = damped_moments(second, 1e-2)
        norms = keep(weight.abs() * second.diagonal().sqrt(), OfRows(16))
        masks = (alternate(weight, second, OfRows(16)), norms)
        ours, theirs = (error(weight, exact(weight, moments, mask), moments) for mask in masks)
        gains.append(ours / theirs)
    assert sum(gains) / 20 < 0.9


@settings(max_examples=20)
@given(seed=st.integers(0, 100))
def test_inputs_that_carry_nothing_go_first(seed: int) -> None:
    weight, second = layer(seed)
    second[[1, 3, 5]] = 0
    second[:, [1, 3, 5]] = 0
    found = solve(weight, second, OfRows(3), damping=1e-9, width=8)
    assert found.mask.all(0).tolist() == [True, False, True, False, True, False, True, True]
    torch.testing.assert_close(found.weight, weight * found.mask)


def test_a_dead_layer_is_masked_and_stays_finite() -> None:
    weight = torch.ones(2, 4)
    found = solve(weight, torch.zeros(4, 4), OfRows(2))
    assert found.weight.sum() == 4
    assert torch.isfinite(refit(weight, torch.zeros(4, 4), found.mask)).all()


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="num_all=4"):
        solve(torch.ones(1, 6), torch.eye(6), OfGroups(2, 4))
