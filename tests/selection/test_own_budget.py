"""A budget of a user's own: one class with one method, wherever natsel takes a budget."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import natsel
from natsel.selection import CostBudget, Gauge


@dataclass(frozen=True)
class Bytes:
    """At most so many bytes of parameters."""

    most: int

    def gauge(self, communities):
        size = next(communities.model.parameters()).element_size()
        return Gauge(
            name="bytes",
            asked=self.most,
            limit=self.most,
            read=lambda survivors: size * communities.price(survivors).parameters,
            describe=lambda value: f"{value:,.0f} bytes",
        )


@dataclass(frozen=True)
class Energy:
    """At most a share of an energy that is another one for each layer: not what natsel prices."""

    share: float
    each: dict[str, float]

    def gauge(self, communities):
        def read(survivors):
            return sum(e * float(survivors[n].sum()) for n, e in self.each.items())

        dense = read(communities.full())
        return Gauge("energy", self.share, self.share * dense, read)


@pytest.fixture
def communities():
    torch.manual_seed(0)
    layers = (nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    return natsel.discover(nn.Sequential(*layers), torch.zeros(1, 4))


SCORES = {"0": torch.arange(8.0), "2": torch.arange(6.0) + 0.5}


def test_what_natsel_has_are_cost_budgets_and_a_share_of_populations_is_none():
    for budget in (natsel.Parameters(0.5), natsel.MACs(0.5), natsel.Latency(0.5), Bytes(1)):
        assert isinstance(budget, CostBudget)
    assert not isinstance(natsel.Sparsity(0.5), CostBudget)


@pytest.mark.parametrize("scope", ["community", "global"])
@pytest.mark.parametrize("most", [100, 300, 429])
def test_bytes_select_what_as_many_parameters_select(communities, scope, most):
    found = natsel.select(SCORES, Bytes(most), communities=communities, scope=scope)
    same = natsel.select(SCORES, natsel.Parameters(most // 4), communities=communities, scope=scope)
    assert {n: m.tolist() for n, m in found.items()} == {n: m.tolist() for n, m in same.items()}
    small = natsel.extract(communities.model, found)
    assert sum(p.numel() * p.element_size() for p in small.parameters()) <= most


def test_not_one_population_more_goes_than_the_budget_asks(communities):
    # By score all go in turn, 0 first: 0.0 of "0", 0.5 of "2", 1.0, 1.5 ... Neurons of "2" cost 3.
    # All cost 8 * 1 + 6 * 3 = 26; without 0.0, 0.5, 1.0 they cost 21, with 1.5 gone 18 <= 0.75 * 26
    options = {"communities": communities, "scope": "global", "normalize": None}
    found = natsel.select(SCORES, Energy(0.75, {"0": 1.0, "2": 3.0}), **options)
    assert found["0"].tolist() == [False, False] + [True] * 6
    assert found["2"].tolist() == [False, False] + [True] * 4


def test_all_options_of_select_hold(communities):
    found = natsel.select(
        SCORES, Bytes(250), communities=communities, include="0", multiple_of=2, floor=2
    )
    assert found["2"].all()
    assert int(found["0"].sum()) == 2


def test_adapt_takes_it(communities):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 4, generator=generator)
    adapted = natsel.adapt(
        communities, Bytes(300), inputs, generator=generator, search=False, floor=1
    )
    assert 4 * communities.price(adapted.survivors).parameters <= 300


def test_what_cannot_be_met_is_told_in_the_words_of_the_budget(communities):
    with pytest.raises(ValueError, match=r"^bytes=8 is not allowed: expected at least 52 bytes "):
        natsel.select(SCORES, Bytes(8), communities=communities)
    with pytest.raises(ValueError, match=r"^energy=0\.01 .* at least 4 with a floor of 1"):
        natsel.select(SCORES, Energy(0.01, {"0": 1.0, "2": 3.0}), communities=communities)


def test_what_is_wrong_with_it_is_one_line(communities):
    with pytest.raises(ValueError, match=r"^communities=None is not .* Bytes is a cost of one$"):
        natsel.select(SCORES, Bytes(100))
    with pytest.raises(ValueError, match=r"^budget=.*Bytes"):
        natsel.select(SCORES, Bytes, communities=communities)

    class Half:
        def gauge(self, communities):
            return 0.5

    with pytest.raises(ValueError, match=r"type float.*expected that Half returns a natsel"):
        natsel.select(SCORES, Half(), communities=communities)

    class Nothing:
        def gauge(self, communities):
            return Gauge("nothing", 1, 1, lambda survivors: float("nan"))

    with pytest.raises(natsel.common.errors.NonFiniteError, match="nothing is NaN"):
        natsel.select(SCORES, Nothing(), communities=communities)
