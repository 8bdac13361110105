"""Depth of a language model: rows are kept one by one, and told in words."""

from __future__ import annotations

import json
import math

import pytest
from tests import language

from natsel_bench import depth as room
from natsel_bench.depth import bench_depth
from natsel_bench.words import words

SIZES = {
    "length": 16,
    "samples": 4,
    "search_length": 12,
    "windows": 12,
    "evaluations": 8,
}


@pytest.fixture
def made(tmp_path):
    pytest.importorskip("transformers")
    text = tmp_path / "text.txt"
    text.write_text(language.text(0, 2000))
    return str(language.folder(tmp_path / "model")), text


def test_rows_are_kept_one_by_one_and_told(made, tmp_path, monkeypatch):
    model, text = made
    out = tmp_path / "out"
    first = bench_depth(model, text, out, only=("dense", "branches-cosine"), **SIZES)
    assert [row["name"] for row in first["rows"]] == ["dense", "branches-cosine"]
    monkeypatch.setattr(room, "_by_cosine", None)  # kept rows are not run again
    names = ("dense", "branches-cosine", "branches-searched", "branches-compensated")
    result = bench_depth(model, text, out, only=names, resume=True, **SIZES)
    dense, cosine, searched, solved = (row for row in result["rows"])
    assert [dense, cosine["losses"]] == [first["rows"][0], first["rows"][1]["losses"]]
    assert len(dense["losses"]) == 4
    assert dense["ratio"] == 1.0
    mean = sum(searched["losses"]) / 4
    assert searched["perplexity"] == pytest.approx(math.exp(mean))
    assert len(searched["out"]) == len(cosine["out"]) == len(solved["out"])
    assert json.loads((out / "depth.json").read_text())["rows"] == result["rows"]
    told = words(result)
    assert [line[0] for line in told.rows] == [row["title"] for row in result["rows"]]


def test_the_excess_is_that_of_log_perplexity_over_that_by_cosine(tmp_path):
    for name, value in (("dense", 3.0), ("blocks-cosine", 4.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"losses": [value - 0.5, value + 0.5]}))
    told = room._told({"name": "blocks-searched", "losses": [3.25, 3.75]}, tmp_path)
    assert told["perplexity"] == pytest.approx(math.exp(3.5))
    assert told["ratio"] == pytest.approx(math.exp(0.5))
    assert told["excess"] == pytest.approx(0.5)
    assert room._told({"name": "branches-searched", "losses": [3.5]}, tmp_path)["excess"] is None


def test_both_ways_to_judge_a_plan_agree(made, tmp_path, monkeypatch):
    model, text = made
    monkeypatch.setitem(room.SHARES, "blocks", 0.5)
    (row,) = bench_depth(model, text, tmp_path / "out", only=("rate",), **SIZES)["rows"]
    assert row["differs"] < 1e-2  # of what is held in half precision
    assert row["ratio"] == pytest.approx(row["plain_seconds"] / row["seconds"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"only": ("speed",)}, "only"),
        ({"windows": 4}, "windows=4"),
        ({"fitness": "error"}, "fitness"),
        ({"length": 4096}, "at least"),
    ],
)
def test_what_is_wrong_is_refused_by_name(made, tmp_path, options, named):
    model, text = made
    with pytest.raises(ValueError, match=named):
        bench_depth(model, text, tmp_path / "out", **{**SIZES, **options})
    assert not (tmp_path / "out").exists()
