"""Rows of the benchmark of depth that search: decode time, laws, a vision transformer."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tests import language

from natsel.runs import splits as splits_room
from natsel.runs.training import Recipe
from natsel.selection import latency as clock_room
from natsel_bench import depth_decode, depth_laws, depth_vit, language_models
from natsel_bench.depth import bench_depth
from natsel_bench.words import words

SIZES = {"length": 16, "samples": 6, "search_length": 12, "windows": 8, "evaluations": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("depth")
    text = folder / "text.txt"
    text.write_text(language.text(0, 2000))
    return str(language.folder(folder / "model")), text


@pytest.mark.slow
def test_decode_time_is_searched_by_kind_and_compared(made, tmp_path, monkeypatch):
    def time_in_turn(models, inputs, *, repeats):
        assert inputs[0].shape == (1, 1)  # a token at a time
        sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in models.items()}
        return {name: [float(size)] * repeats for name, size in sizes.items()}

    monkeypatch.setattr(clock_room, "time_in_turn", time_in_turn)
    names = ("dense", "decode-depth", "decode-width", "decode-all")
    result = bench_depth(*made, tmp_path / "out", only=names, **SIZES)
    _, depth, width, both = result["rows"]
    assert all(row["time"] <= 0.75 for row in (depth, width, both))
    assert depth["out"]
    assert width["out"] == []
    better = min((depth, width), key=lambda row: row["perplexity"])
    assert better["name"] == f"decode-{both['test']['against']}"
    gap = sum(both["losses"]) / 6 - sum(better["losses"]) / 6
    assert both["test"]["difference"] == pytest.approx(-gap, abs=1e-6)
    told = words(result)
    assert any("sign flips over 6 held-out windows" in line for line in told.sentences)


def test_all_kinds_are_compared_with_the_better_single_one(tmp_path):
    work = SimpleNamespace(out=tmp_path)
    (told,) = depth_decode._against_one_kind(work, [1.0, 2.0])["told"]
    assert "decode-depth was not run" in told
    for how, losses in (("depth", [1.5, 2.5]), ("width", [1.25, 2.5])):
        (tmp_path / f"decode-{how}.json").write_text(json.dumps({"losses": losses}))
    test = depth_decode._against_one_kind(work, [1.0, 2.0])["test"]
    assert test["against"] == "width"
    assert test["difference"] == pytest.approx((0.25 + 0.5) / 2)
    assert test["p_value"] == 0.5  # of the four changes of sign


def test_laws_are_compared_over_seeds_and_go_on(made, tmp_path, monkeypatch):
    for name, value in {
        **{"SEEDS": 2, "EVALUATIONS": 4, "LENGTH": 8, "TRAINING": 1},
        **{"SEARCHED": 4, "DECIDING": 2, "FINAL": 3},
    }.items():
        monkeypatch.setattr(depth_laws, name, value)
    tiny = partial(language_models.small_gpt2, layers=1, width=8, inner=128, heads=2)
    monkeypatch.setattr(language_models, "small_gpt2", tiny)
    run = depth_laws._one
    calls = []

    def one(*arguments):
        calls.append(arguments[-2:])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(*arguments)

    monkeypatch.setattr(depth_laws, "_one", one)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        bench_depth(*made, out, only=("laws",), **SIZES)
    (row,) = bench_depth(*made, out, only=("laws",), resume=True, **SIZES)["rows"]
    done = [(law, seed) for seed in range(2) for law in depth_laws.LAWS]
    assert calls == [*done[:4], *done[3:]]  # what was done is not done again
    assert {law: len(each) for law, each in row["divergences"].items()} == {
        "none": 2,
        "replicator": 2,
        "wright-fisher": 2,
    }
    for law in ("replicator", "wright-fisher"):
        mean = (sum(row["divergences"][law]) - sum(row["divergences"]["none"])) / 2
        assert row["tests"][law]["seeds"]["difference"] == pytest.approx(-mean)
        assert row["tests"][law]["windows"]["n"] == 3


@pytest.mark.slow
def test_a_vision_transformer_is_cut_in_both_ways(made, tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def part(count):
        return torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 2

    data = splits_room.Splits("made", ("a", "b"), part(32), part(48), part(40))
    monkeypatch.setattr(depth_vit, "load_splits", lambda name: data)
    monkeypatch.setattr(depth_vit, "OPTIONS", {"dim": 8, "depth": 1, "heads": 2, "patch": 4})
    monkeypatch.setattr(depth_vit, "RECIPE", Recipe(epochs=1))
    monkeypatch.setattr(depth_vit, "EVALUATIONS", 4)
    result = bench_depth(*made, tmp_path / "out", only=("vit",), **SIZES)
    (row,) = result["rows"]
    for how in ("as cut", "compensated"):
        found = row["tests"][how]
        assert found["searched"]["n"] == 40
        gap = found["accuracy"]["searched"] - found["accuracy"]["adaptive"]
        assert found["searched"]["difference"] == pytest.approx(gap)
        assert found["adaptive"]["difference"] == 0
    assert set(row["told"]) <= set(words(result).sentences)


def test_a_vision_transformer_without_its_data_says_so(made, tmp_path, monkeypatch):
    def none(name):
        raise ValueError("no such file")

    monkeypatch.setattr(depth_vit, "load_splits", none)
    (row,) = bench_depth(*made, tmp_path / "out", only=("vit",), **SIZES)["rows"]
    assert "no such file" in row["missing"]
