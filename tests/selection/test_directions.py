"""A budget says which way it counts, and a write has a name."""

import pytest
import torch
from torch import nn

import natsel


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (natsel.Sparsity(0.7), "Sparsity(0.7): removes 70 % of the populations"),
        (natsel.Sparsity(0), "Sparsity(0): removes 0 % of the populations"),
        (natsel.Sparsity(0.985), "Sparsity(0.985): removes 98.5 % of the populations"),
        (natsel.MACs(0.7), "MACs(0.7): keeps 70 % of the multiply-accumulates"),
        (natsel.MACs(1.0), "MACs(1.0): keeps 100 % of the multiply-accumulates"),
        (natsel.MACs(5000), "MACs(5000): keeps 5,000 multiply-accumulates"),
        (natsel.Parameters(0.07), "Parameters(0.07): keeps 7 % of the parameters"),
        (natsel.Parameters(2_000_000), "Parameters(2000000): keeps 2,000,000 parameters"),
        (natsel.Latency(0.5), "Latency(0.5): keeps 50 % of the time of a forward pass at batch 1"),
        (natsel.Latency(ms=3, batch_size=8), "Latency(ms=3): keeps 3 ms at batch 8"),
    ],
)
def test_a_budget_says_its_direction(budget, told):
    assert repr(budget) == told


def test_both_directions_of_every_share_are_one_budget():
    for percent in range(1, 100):
        kept, gone = percent / 100, (100 - percent) / 100
        assert natsel.Sparsity.kept(kept) == natsel.Sparsity.removed(gone) == natsel.Sparsity(gone)
        assert natsel.MACs.kept(kept) == natsel.MACs.removed(gone) == natsel.MACs(kept)
        assert natsel.Parameters.kept(kept) == natsel.Parameters.removed(gone)
        assert natsel.Latency.kept(kept, batch_size=2) == natsel.Latency.removed(gone, batch_size=2)


def test_of_eight_neurons_they_leave_what_they_say():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    scores = natsel.score(natsel.discover(model, torch.ones(1, 4)), "magnitude")
    kept = {
        name: int(natsel.select(scores, budget)["0"].sum())
        for name, budget in {
            "gone": natsel.Sparsity(0.7),
            "also": natsel.Sparsity.kept(0.3),
            "left": natsel.MACs(0.7),
            "also left": natsel.MACs.removed(0.3),
        }.items()
    }
    assert kept == {"gone": 2, "also": 2, "left": 5, "also left": 5}


@pytest.mark.parametrize("share", [-0.1, 1.5, True, "half", None, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="is not allowed"):
        natsel.MACs.removed(share)
    with pytest.raises(ValueError, match="is not allowed"):
        natsel.Sparsity.kept(share)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_writes_what_select_did_not_keep(packed, dtype):
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(1200, 1100, generator=generator).to(dtype)
    turned = torch.randn(7, 9, generator=generator).to(dtype).T
    weights = natsel.Weights({"a": whole.clone(), "b": turned})
    before = {n: w.clone() for n, w in weights.items()}
    survivors = natsel.select(weights, natsel.Sparsity(0.5), packed=packed)
    assert all(torch.equal(weights[n], before[n]) for n in weights)
    assert natsel.zero_(weights, survivors) is None
    for name, old in before.items():
        assert torch.equal(weights[name], torch.where(survivors[name], old, 0))
    other = natsel.Weights({"a": whole.clone(), "b": before["b"].clone()})
    with pytest.warns(DeprecationWarning, match=r"natsel\.zero_"):
        natsel.select(other, natsel.Sparsity(0.5), packed=packed, zero=True)
    for name in weights:
        assert torch.equal(weights[name], other[name])


def test_zero_writes_into_a_model_by_name():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    survivors = natsel.select(natsel.weights(model, include="0.*"), natsel.Sparsity(0.5))
    last = model[1].weight.detach().clone()
    natsel.zero_(model, survivors)
    assert int((model[0].weight == 0).sum()) == 3
    assert torch.equal(model[1].weight, last)
    assert model[0].weight.requires_grad


@pytest.mark.parametrize(
    ("survivors", "told"),
    [
        ({"0.weight": torch.zeros(2, 3, dtype=torch.bool), "x": torch.ones(1)}, "survivors='x'"),
        ({"0.weight": torch.zeros(2, 3)}, "float32"),
        ({"0.weight": torch.zeros(3, 2, dtype=torch.bool)}, r"shape \(2, 3\)"),
        ({"0.weight": None}, "a tensor of booleans"),
        (5, "survivors=5"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(survivors, told):
    model = nn.Sequential(nn.Linear(3, 2))
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=told):
        natsel.zero_(model, survivors)
    assert torch.equal(model[0].weight, before)
    with pytest.raises(ValueError, match=r"^weights=3"):
        natsel.zero_(3, survivors)
