"""The zoo: its judge sees what is wrong, every ending is a row, and its page is of its result."""

from __future__ import annotations

import copy
import datetime
import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import natsel
from natsel.common.json_data import read_json
from natsel_bench.peers.reference import distinct_, removed
from natsel_bench.zoo import trial
from natsel_bench.zoo.bench import bench_zoo, chosen
from natsel_bench.zoo.catalog import CATALOG
from natsel_bench.zoo.catalog.entry import Entry, pictures, tokens
from natsel_bench.zoo.masked import difference, gone_from, in_float64, is_exact, masked, outputs
from natsel_bench.zoo.page import page
from natsel_bench.zoo.summary import OUTCOMES, kind_of, summary

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "results" / "zoo" / "zoo.json"


def conv():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(),
        nn.Linear(64, 5),
    )  # fmt: skip


def row_of(build, tmp_path, monkeypatch, *, inputs=None, generates=False):
    entry = Entry("own/model", build, inputs or pictures(8), generates)
    monkeypatch.setitem(trial.CATALOG, "own/model", entry)
    row = trial.run_here("own/model", 0, tmp_path)
    return row | trial.load_here("own/model", 0, tmp_path)


def test_there_are_at_least_180_models_of_five_libraries():
    libraries = {name.split("/")[0] for name in CATALOG}
    assert libraries == {"torchvision", "timm", "transformers", "diffusers", "ultralytics"}
    assert len(CATALOG) >= 180


def test_parts_are_all_and_the_seed_moves_them():
    parts = [chosen(part=f"{k}/5", seed=3) for k in range(1, 6)]
    assert sorted(name for part in parts for name in part) == sorted(CATALOG)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts[0] != chosen(part="1/5", seed=4)
    assert all(n.startswith("timm/") for n in chosen(["timm/*"], "1/2"))


@pytest.mark.parametrize(
    ("argument", "value"),
    [("part", "6/5"), ("part", "0/5"), ("part", "half"), ("only", "timmm/*"), ("limit", 0.0)],
)
def test_what_is_not_allowed_is_named(tmp_path, argument, value):
    given = [value] if argument == "only" else value
    with pytest.raises(ValueError, match=f"^{argument}=.*is not allowed"):
        bench_zoo(tmp_path / "out", **{argument: given})
    assert not (tmp_path / "out").exists()


def test_what_is_gone_is_what_the_judge_of_peers_finds():
    dense = distinct_(conv())
    communities = natsel.discover(dense.eval(), torch.randn(2, 3, 8, 8))
    survivors = trial.choose_survivors(communities, "uneven", 1)
    small = natsel.extract(dense, natsel.Survivors(survivors, communities))
    ours, theirs = gone_from(dense, small), removed(dense, small)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_judge_sees_a_filter_in_another_place_and_a_statistic_left_behind():
    dense = distinct_(conv()).eval()
    x = (torch.randn(2, 3, 8, 8),)
    communities = natsel.discover(dense, x)
    survivors = trial.choose_survivors(communities, "even", 0)
    small = natsel.extract(dense, natsel.Survivors(survivors, communities))
    before = outputs(in_float64(dense), x)

    def found(model):
        twin, closed = masked(dense, gone_from(dense, model))
        return difference(outputs(in_float64(model), x), outputs(twin, x, closed=closed), before)

    assert is_exact(found(small))
    swapped = copy.deepcopy(small)
    swapped[0].weight.data = swapped[0].weight.data.flip(0)
    stale = copy.deepcopy(small)
    stale[1].running_mean += 1e-3
    for wrong in (swapped, stale):
        assert not is_exact(found(wrong))


def test_a_network_of_filters_passes_everything(tmp_path, monkeypatch):
    row = row_of(conv, tmp_path, monkeypatch)
    assert row["outcome"] == "exact"
    assert row["train"] == "ok"
    assert row["load"] == "with the class"
    assert row["unchanged"]
    assert set(row["selections"]) == set(trial.SELECTIONS)
    assert row["removable"] > row["selections"]["even"]["share"] > 0.3
    assert row["fresh"] == [[3, 3, 8, 8]]


def test_a_language_model_generates_with_its_cache(tmp_path, monkeypatch):
    library = pytest.importorskip("transformers")
    config = library.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    row = row_of(
        lambda: library.GPT2LMHeadModel(config),
        tmp_path,
        monkeypatch,
        inputs=tokens(40),
        generates=True,
    )
    assert (row["outcome"], row["generate"], row["load"]) == ("exact", "ok", "alone")
    assert row["fresh"] == [[3, 11]]


class ByName(nn.Module):
    """Calls a linear map with names, as beit does, and asks for float32 on the way."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        hidden = nn.functional.linear(input=x, weight=self.up.weight, bias=self.up.bias)
        return self.down(
            hidden.float().softmax(-1, dtype=torch.float32).to(x.dtype) + hidden.relu()
        )


class Rounding(ByName):
    def forward(self, x):
        return self.down(super().forward(x)[:, :1].float() + self.up(x).relu())


def test_the_judge_computes_in_float64_also_where_code_asks_for_less():
    dense = distinct_(Rounding())
    x = (torch.randn(4, 6),)
    exact = outputs(in_float64(dense), x)[0]
    with torch.no_grad():
        double = dense.double()
        first = double.up(x[0].double())
        inner = double.down(first.softmax(-1) + first.relu())[:, :1]
        right = double.down(inner + first.relu())
    assert float((exact - right).abs().max()) < 1e-14


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = conv()

    def forward(self, x):
        return self.inner(x) + torch.randn(())


class Branching(Noisy):
    def forward(self, x):
        return self.inner(x) if float(x.sum()) > 0 else -self.inner(x)


class Plain(Noisy):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

    def forward(self, x):
        return self.inner(x)


def unbuildable():
    raise TypeError("it takes no such argument\nat all")


@pytest.mark.parametrize(
    ("build", "outcome", "said"),
    [
        (unbuildable, "not built", "TypeError: it takes no such argument"),
        (Noisy, "random", "two runs differ"),
        (Branching, "not exported", "cannot be exported"),
        (Plain, "refused", ""),
    ],
)
def test_every_ending_is_a_row(tmp_path, monkeypatch, build, outcome, said):
    row = row_of(build, tmp_path, monkeypatch)
    assert row["outcome"] == outcome
    assert said in row["reason"]


def test_a_removal_that_is_refused_or_wrong_decides_the_row(tmp_path, monkeypatch):
    extract = natsel.extract

    def too_much(model, survivors):
        small = extract(model, survivors)
        small[-1].bias.data += 1e-3
        return small

    monkeypatch.setattr(trial.natsel, "extract", too_much)
    assert row_of(conv, tmp_path, monkeypatch)["outcome"] == "wrong"

    def refusing(model, survivors):
        raise natsel.VerificationError("it differs")

    monkeypatch.setattr(trial.natsel, "extract", refusing)
    row = row_of(conv, tmp_path, monkeypatch)
    assert (row["outcome"], row["reason"]) == ("refused", "even: VerificationError: it differs")


def test_reasons_are_counted_by_kind():
    told = "normalised at vision.py:12 `x = norm(x)`, of 48 places"
    assert kind_of(told) == kind_of(told.replace("12", "7").replace("48", "96"))
    rows = [
        {"model": "a/b", "outcome": "exact", "removable": 0.7, "whole": [],
         "discover_s": 1.0, "extract_s": 1.0, "peer": "exact", "peer_s": 0.5},
        {"model": "a/c", "outcome": "refused", "reason": "r",
         "whole": [{"reason": told, "where": ["d (3)"], "places": 1}]},
        {"model": "a/d", "outcome": "not built", "reason": "no"},
    ]  # fmt: skip
    said = summary(rows)
    assert (said["judged"], said["exact"], said["more_than_half"]) == (2, 0.5, 0.5)
    assert said["median_ratio"] == 4.0
    assert said["reasons"] == [(kind_of(told), 1)]


def test_the_page_is_of_the_result_and_has_a_row_a_model():
    result = read_json(RESULT)
    written = (ROOT / "docs" / "zoo.md").read_text()
    assert page(result) == written
    for row in result["rows"]:
        assert row["outcome"] in OUTCOMES
        assert f"| {row['model'].split('/', 1)[1]} |" in written
    assert result["summary"]["outcomes"].get("wrong", 0) == 0


@pytest.mark.slow
def test_a_model_that_hangs_or_eats_the_memory_is_a_row():
    from natsel_bench.zoo.apart import processes, run_apart

    context = processes()
    for work, outcome in ((busy, "time-out"), (hungry, "memory"), (gone, "error")):
        row = run_apart(context, "timm/resnet18", seed=0, limit=3, memory=6, work=work)
        assert row["outcome"] == outcome, row


def busy(name, seed, folder):
    while True:
        time.process_time()


def hungry(name, seed, folder):
    return {"outcome": str(torch.ones(1 << 34).sum())}


def gone(name, seed, folder):
    os._exit(3)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_fifth_of_the_zoo_is_exact_or_says_why(tmp_path):
    for library in ("torchvision", "timm", "transformers", "diffusers"):
        pytest.importorskip(library, exc_type=ImportError)
    day = datetime.date.today().toordinal()
    seed = int(os.environ.get("NATSEL_ZOO_SEED", day // 5))
    result = bench_zoo(tmp_path / "zoo", part=f"{day % 5 + 1}/5", seed=seed)
    ended = {row["model"]: row["outcome"] for row in result["rows"]}
    assert not {m: o for m, o in ended.items() if o in ("wrong", "broken", "error")}
    assert result["summary"]["exact"] >= 0.9
