"""The structure of the benchmark of scores, and that it sees a wrong one; no test of a time."""

import math

import pytest
import torch

import natsel_bench.score as room
from natsel import discover, models
from natsel_bench.score import SCORERS, bench_score, brute_force, cost


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    networks = {
        "small": ("mlp", (1, 4, 4), 8, {"hidden": (6, 5)}),
        "filters": ("cnn", (1, 8, 8), 4, {"widths": (4, 6)}),
    }
    monkeypatch.setattr(room, "NETWORKS", networks)


def test_rows():
    seen = []
    result = bench_score(quick=True, progress=lambda what, done, total: seen.append((done, total)))
    assert seen == [(i, 10) for i in range(11)]
    assert [(r["network"], r["scorer"]) for r in result["rows"]] == [
        (network, scorer) for network in ("small", "filters") for scorer in SCORERS
    ]
    for row in result["rows"]:
        assert row["batches"] == 1
        assert all(math.isfinite(row[n]) for n in ("ratio", "plain_ms", "extra_bytes"))
        assert row["quartile_low"] <= row["ratio"] <= row["quartile_high"]


def test_a_wrong_score_ends_it(monkeypatch):
    def spoiled(communities, scorer, *, data):
        return {n: 2 * v for n, v in brute_force(communities, scorer, data).items()}

    monkeypatch.setattr(room, "score", spoiled)
    with pytest.raises(ArithmeticError, match="scorer 'wanda' differs from brute force in"):
        bench_score(quick=True)


def test_both_take_turns():
    calls = []
    cost(lambda: calls.append("p"), lambda: calls.append("s"), repeats=2)
    assert "".join(calls) == "pssppssp"


def test_the_bare_passes_leave_the_model_as_it_was():
    model = models.build("cnn", in_shape=(1, 8, 8), num_classes=10, widths=(4, 6)).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    data = [(torch.randn(4, 1, 8, 8), torch.randint(10, (4,)))]
    room.bare(model, data, backward=True)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_brute_force_is_what_it_says():
    model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [2.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, -1.0]]))
    communities = discover(model, (torch.ones(1, 1),))
    data = [(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0]))]
    wanda = brute_force(communities, "wanda", data)["0"]  # |W| times the root of (1 + 4) / 2
    torch.testing.assert_close(wanda, torch.tensor([3 * 2.5**0.5, 2 * 2.5**0.5]))
    assert brute_force(communities, "variance", data)["0"].tolist() == [0.25, 1.0]


@pytest.mark.parametrize("changes", [{"repeats": 0}, {"batches": 0}, {"repeats": True}])
def test_refuses_counts(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"^{name}="):
        bench_score(**changes)
