"""The share goes within each row: exactly, and of equals the last ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import natsel


def test_half_of_each_row_goes_however_large_the_others_are() -> None:
    weights = natsel.Weights({"w": torch.tensor([[1.0, 2.0, 3.0, 4.0], [50.0, 60.0, 70.0, 80.0]])})
    mask = natsel.select(weights, natsel.Sparsity(0.5), scope="row")["w"]
    assert mask.tolist() == [[False, False, True, True], [False, False, True, True]]


def test_of_equals_the_first_ones_stay() -> None:
    weights = natsel.Weights({"w": torch.tensor([[1.0, -1.0, 1.0, 0.5], [2.0, 2.0, 2.0, 2.0]])})
    mask = natsel.select(weights, natsel.Sparsity(0.5), scope="row")["w"]
    assert mask.tolist() == [[True, True, False, False], [True, True, False, False]]


def test_a_row_of_a_convolution_is_an_output_channel() -> None:
    weight = torch.arange(1.0, 17.0).view(2, 2, 2, 2)
    mask = natsel.select(natsel.Weights({"w": weight}), natsel.Sparsity(0.25), scope="row")["w"]
    assert mask.flatten(1).tolist() == [[False] * 2 + [True] * 6] * 2


@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 40),
    share=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.75]),
    engine=st.sampled_from(["numpy", "torch"]),
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    packed=st.booleans(),
    turned=st.booleans(),
    seed=st.integers(0, 100),
)
def test_every_row_is_the_sorted_one(
    rows: int,
    columns: int,
    share: float,
    engine: str,
    kind: torch.dtype,
    packed: bool,
    turned: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-4, 5, (rows, columns), generator=generator).to(kind)
    weight = weight.T.contiguous().T if turned else weight
    weights = natsel.Weights({"w": weight}, engine=engine)
    num = natsel.Sparsity(share).count(columns)
    if num == columns:
        with pytest.raises(ValueError, match="each row"):
            natsel.select(weights, natsel.Sparsity(share), scope="row")
        return
    mask = natsel.select(weights, natsel.Sparsity(share), scope="row", packed=packed)["w"]
    for row, kept in zip(weight.abs().float(), mask, strict=True):
        places = torch.argsort(row, descending=True, stable=True)[: columns - num]
        assert kept.nonzero().flatten().tolist() == sorted(places.tolist())


def test_more_rows_than_fit_a_stretch() -> None:
    weight = torch.randn(700, 600, generator=torch.Generator().manual_seed(0))
    masks = natsel.select(
        natsel.Weights({"a": weight, "b": weight[:3].clone()}), natsel.Sparsity(0.5), scope="row"
    )
    assert (masks["a"].sum(1) == 300).all()
    assert torch.equal(masks["a"][:3], masks["b"])


def test_wanda_by_row_of_a_model() -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False))
    x = torch.tensor([[1.0, 1.0, 100.0, 100.0]])
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[9.0, 8.0, 1.0, 0.9]] * 3))
    found = natsel.weights(model, scorer="wanda", data=[(x,)])
    mask = natsel.select(found, natsel.Sparsity(0.5), scope="row")["0.weight"]
    assert mask.tolist() == [[False, False, True, True]] * 3


def test_patterns_have_budgets_of_their_own() -> None:
    tensors = {n: torch.arange(1.0, 9.0).view(1, 8) for n in ("a.mlp", "a.attn", "head")}
    budget = {"*.mlp": natsel.Sparsity(0.25), "*.attn": natsel.NM(2, 4)}
    masks = natsel.select(natsel.Weights(tensors), budget, scope="row")
    assert list(masks) == ["a.mlp", "a.attn", "head"]
    assert masks["a.mlp"].tolist() == [[False] * 2 + [True] * 6]
    assert masks["a.attn"].tolist() == [[False, False, True, True] * 2]
    assert masks["head"].all()


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (natsel.NM(2, 4), "scope='row', budget=NM"),
        ({"nothing*": natsel.Sparsity(0.5)}, "matches"),
        ({"w": natsel.Parameters(0.5)}, "Sparsity, NM or Blocks"),
        (natsel.Sparsity(0.99), "each row of 'w'"),
    ],
)
def test_what_is_no_budget_of_rows_is_refused(budget: object, told: str) -> None:
    weights = natsel.Weights({"w": torch.ones(2, 8)})
    with pytest.raises(ValueError, match=told):
        natsel.select(weights, budget, scope="row")  # type: ignore[arg-type]


def test_rows_of_a_transposed_convolution_are_inputs() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(2, 4, 3))
    with pytest.raises(ValueError, match=r"scope='row'.*0.weight"):
        natsel.select(natsel.weights(model), natsel.Sparsity(0.5), scope="row")


def test_scores_of_populations_have_no_rows() -> None:
    with pytest.raises(ValueError, match="scope='row'"):
        natsel.select({"a": torch.ones(4)}, natsel.Sparsity(0.5), scope="row")


def test_names_of_one_tensor_have_one_budget() -> None:
    weight = torch.ones(2, 8)
    with pytest.raises(ValueError, match="one tensor"):
        natsel.select(
            natsel.Weights({"a": weight, "b": weight}),
            {"a": natsel.Sparsity(0.5), "b": natsel.Sparsity(0.25)},
        )
