"""Layers of a block: moments shared by those that read the same, masks and weights written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import natsel
from natsel.single_weights.in_block import Solver, sparsify_layers
from natsel.single_weights.moments import second_moments
from natsel.single_weights.owl import outlier_ratio, owl_shares
from natsel.single_weights.patterns import Given, OfRows


def test_layers_that_read_the_same_share_their_moments() -> None:
    layers = {n: nn.Linear(3, 3) for n in ("q", "k", "o")}
    x = torch.arange(6.0).view(2, 3)

    def look() -> None:
        for batch in (x, x + 1):
            h = layers["q"](batch) + layers["k"](batch)
            layers["o"](h)

    found = second_moments(layers, look)
    assert found["q"] is found["k"] is not found["o"]
    rows = torch.cat((x, x + 1)).double()
    torch.testing.assert_close(found["q"].mean, rows.T @ rows / 4)


@pytest.mark.parametrize("order", [("aa", "ab"), ("ab", "aa"), ("a", "aa"), ("aa", "a")])
def test_layers_that_part_later_have_moments_of_their_own(order: tuple[str, str]) -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    a, b = torch.ones(1, 2), torch.full((1, 2), 3.0)

    def look() -> None:
        for what in order:
            mine = a + 0
            first(mine)
            for kind in what[1:]:
                second(mine if kind == "a" else b)

    found = second_moments({"first": first, "second": second}, look)
    read = [x for what in order for x in what[1:]]
    assert found["first"].count == 2
    assert found["second"].count == len(read)
    mean = sum(1.0 if x == "a" else 9.0 for x in read) / len(read)
    assert found["second"].mean[0, 0] == mean


def test_nothing_is_written_where_a_layer_reads_nan() -> None:
    layers = {"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}
    before = layers["a"].weight.detach().clone()

    def look() -> None:
        layers["a"](torch.ones(1, 2))
        layers["b"](torch.full((1, 2), torch.nan))

    with pytest.raises(natsel.NonFiniteError, match="b"):
        sparsify_layers(layers, {"a": OfRows(1), "b": OfRows(1)}, look)
    assert torch.equal(layers["a"].weight, before)


def test_a_given_mask_is_kept_and_the_rest_refitted() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
    mask = torch.tensor([[True, False]])
    solver = Solver("magnitude", refit=True, damping=1e-9)
    masks, done = sparsify_layers(
        {"w": layer}, {"w": Given(mask)}, lambda: layer(torch.ones(3, 2)), solver=solver
    )
    assert torch.equal(masks["w"], mask)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[3.0, 0.0]]))
    assert done[0].kept == 1
    assert done[0].error == pytest.approx(0, abs=1e-6)
    assert done[0].masked == pytest.approx(4 / 9)


def test_scores_of_ones_own_see_weights_and_moments() -> None:
    layer = nn.Linear(2, 1, bias=False)

    def scorer(weight: Tensor, second: Tensor) -> Tensor:
        assert second.shape == (2, 2)
        return -weight.abs()

    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
    solver = Solver(scorer, refit=False)
    sparsify_layers({"w": layer}, {"w": OfRows(1)}, lambda: layer(torch.ones(1, 2)), solver=solver)
    assert layer.weight.tolist() == [[1.0, 0.0]]


def test_layers_with_more_outliers_lose_less_and_the_mean_stays() -> None:
    assert outlier_ratio(torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 20.0]]), torch.ones(6)) == (
        pytest.approx(0)
    )
    assert outlier_ratio(torch.tensor([[1.0] * 9 + [99.0]]), torch.ones(10)) == pytest.approx(0.1)
    shares = owl_shares({"a": 0.0, "b": 0.5, "c": 1.0}, {"a": 1, "b": 1, "c": 2}, 0.5, spread=0.08)
    assert shares["a"] > shares["b"] > shares["c"]
    assert shares["a"] - shares["c"] == pytest.approx(0.16)
    assert (shares["a"] + shares["b"] + 2 * shares["c"]) / 4 == pytest.approx(0.5)
    assert owl_shares({"a": 0.1, "b": 0.1}, {"a": 1, "b": 1}, 0.5) == {"a": 0.5, "b": 0.5}
    assert all(0 <= s < 1 for s in owl_shares({"a": 0, "b": 1}, {"a": 1, "b": 1}, 0.99).values())
