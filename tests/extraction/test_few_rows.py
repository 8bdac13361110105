"""A fit between rows is the fit between columns, and is made where there are few rows."""

from __future__ import annotations

import pytest
import torch

import natsel.extraction.rows as rows_module
from natsel.extraction.folds import RIDGES, Folds, chosen
from natsel.extraction.pairs import Pairs
from natsel.extraction.rows import Gathering, Rows


def both(rows, columns, *, shift=0.0, constant, folds=4, wanted=3):
    """The same rows held, and as moments of their folds, all in float64."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, columns, generator=generator).double() + shift
    y = x[:, :wanted] + 0.5 * torch.randn(rows, wanted, generator=generator) + shift
    where = torch.arange(rows) % folds
    moments = [Pairs() for _ in range(folds)]
    for fold, each in enumerate(moments):
        each.add(x[where == fold], y[where == fold])
    return Rows(x, y, where, constant=constant), Folds(moments, constant=constant)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(("rows", "shift"), [(7, 0.0), (12, 30.0), (16, 1e4), (3, 0.0)])
def test_between_rows_as_between_columns(rows, shift, constant):
    """Also more columns than rows, where only the penalty makes the solution one, and fewer."""
    few, many = both(rows, 12, shift=shift, constant=constant)
    assert few.count == many.count == rows
    assert few.lacking() == pytest.approx(many.lacking(), rel=1e-12)
    for ridge in RIDGES:
        ours, theirs = few.held_out(ridge), many.held_out(ridge)
        assert ours.before == pytest.approx(theirs.before, rel=1e-9)
        assert ours.after == pytest.approx(theirs.after, rel=1e-6)
        (mine, error), (other, wanted) = few.fit(ridge), many.fit(ridge)
        torch.testing.assert_close(mine.weights, other.weights, rtol=1e-7, atol=1e-9)
        if constant:
            torch.testing.assert_close(mine.constant, other.constant, rtol=1e-7, atol=1e-7)
        else:
            assert mine.constant is other.constant is None
        assert mine.effective_rank == pytest.approx(other.effective_rank, rel=1e-7)
        assert error == pytest.approx(wanted, rel=1e-5, abs=1e-8 * many.lacking())
    assert chosen(few.held_out).ridge == chosen(many.held_out).ridge


def test_products_are_made_in_parts_of_the_columns(monkeypatch):
    whole, _ = both(9, 20, constant=True)
    expected = whole.fit(0.1)[0].weights
    monkeypatch.setattr("natsel.extraction.rows.AT_ONCE", 3)
    parts, _ = both(9, 20, constant=True)
    torch.testing.assert_close(parts.fit(0.1)[0].weights, expected, rtol=1e-12, atol=1e-13)


def test_nothing_that_varies_gives_nothing():
    rows = Rows(torch.ones(4, 6), torch.ones(4, 2), torch.arange(4) % 2, constant=True)
    found, error = rows.fit(0.1)
    assert not found.weights.any()
    assert found.constant.tolist() == [1.0, 1.0]
    assert found.effective_rank == error == 0.0


def test_one_fold_alone_has_nothing_to_hold_out():
    rows = Rows(torch.eye(3, 5), torch.ones(3, 1), torch.zeros(3).long(), constant=False)
    assert rows.held_out(0.1) is None


@pytest.mark.parametrize("constant", [True, False])
def test_large_systems_choose_in_float32_what_float64_chooses(monkeypatch, constant):
    few, many = both(40, 50, shift=3.0, constant=constant)
    solved = []
    quickly = rows_module._quickly
    monkeypatch.setattr(rows_module, "LARGE", 8)
    monkeypatch.setattr(
        rows_module, "_quickly", lambda inner, y: solved.append(quickly(inner, y)) or solved[-1]
    )
    for ridge in RIDGES:
        ours, theirs = few.held_out(ridge).after, many.held_out(ridge).after
        assert ours == pytest.approx(theirs, rel=2 * rows_module.CLOSE)
    assert {x.dtype for x in solved} == {torch.float32}
    assert chosen(few.held_out).ridge == chosen(many.held_out).ridge


def test_what_float32_cannot_solve_is_solved_in_float64(monkeypatch):
    """Far more than seven digits lie between the largest direction and the penalty."""
    monkeypatch.setattr(rows_module, "LARGE", 8)
    generator = torch.Generator().manual_seed(0)
    inner = torch.randn(12, 12, generator=generator).double()
    inner = inner @ torch.diag(torch.logspace(0, -9, 12, dtype=torch.float64)) @ inner.T
    inner.diagonal().add_(1e-12)
    y = torch.randn(12, 3, generator=generator).double()
    found = rows_module._quickly(inner, y)
    assert found.dtype == torch.float64
    assert torch.equal(found, torch.cholesky_solve(y, torch.linalg.cholesky(inner)))


def test_rows_become_moments_once_they_are_more_than_the_columns():
    """All of them but a fold."""
    x = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    y, where = x[:, :2] + 1, torch.arange(10) % 3
    gathered = Gathering(6, 3)  # 9 are 6 and a fold
    gathered.add(x[:9], y[:9], where[:9])
    assert isinstance(gathered.evidence(constant=False), Rows)
    gathered.add(x[9:], y[9:], where[9:])
    found = gathered.evidence(constant=False)
    assert isinstance(found, Folds)
    assert gathered.count == found.count == 10
    direct = [Pairs() for _ in range(3)]
    for fold, each in enumerate(direct):
        for part in (slice(0, 9), slice(9, 10)):
            each.add(x[part][where[part] == fold], y[part][where[part] == fold])
    expected = Folds(direct, constant=False).fit(0.1)[0].weights
    assert torch.equal(found.fit(0.1)[0].weights, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_seen(bad):
    x = torch.ones(2, 3)
    x[0, 0] = bad
    assert not Rows(x, torch.ones(2, 1), torch.arange(2), constant=False).finite
    assert not Rows(x, torch.ones(2, 1), torch.arange(2), constant=True).finite
