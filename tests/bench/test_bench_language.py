"""Language models, one command a row: what is printed is kept, resumed and told in words."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from tests import language
from torch import nn
from typer.testing import CliRunner

from natsel.cli.app import app
from natsel_bench import language as room
from natsel_bench.language import bench_language, run_apart
from natsel_bench.language_models import byte_tokenizer, prepared
from natsel_bench.language_peers import main, wanda
from natsel_bench.language_rows import ROWS, SCORERS, Folders
from natsel_bench.words import best_scorers, words


@pytest.fixture
def made(tmp_path):
    pytest.importorskip("transformers")
    text = tmp_path / "text.txt"
    text.write_text(language.text(0, 2000))
    return language.folder(tmp_path / "model"), text


def test_rows_are_measured_apart_kept_and_told(made, tmp_path, monkeypatch):
    model, text = made
    out = tmp_path / "out"
    sizes = {"only": ("neurons-30", "wanda"), "length": 16, "samples": 4}
    result = bench_language(str(model), text, out, **sizes)
    assert [row["name"] for row in result["rows"]] == ["neurons-30", "wanda"]
    for row in result["rows"]:
        assert row["quality"]["measure"] == "perplexity"
        assert row["quality"]["paired"]["n"] == 4
        assert row["peak_bytes"] > 2**26
    # Both measured the same dense model on the same windows.
    first, second = (row["quality"]["before"] for row in result["rows"])
    assert first == pytest.approx(second)
    found = words(result)
    assert [line[0] for line in found.rows] == [row["title"] for row in result["rows"]]
    assert json.loads((out / "neurons-30" / "result.json").read_text())["kind"] == "prune"

    def again(*_):
        raise AssertionError("a kept row is not measured again")

    monkeypatch.setattr(room, "run_apart", again)
    assert bench_language(str(model), text, out, resume=True, **sizes)["rows"] == result["rows"]


def test_what_fails_is_told_and_the_rest_goes_on(made, tmp_path):
    _, text = made
    sizes = {"only": ("wanda", "recovered"), "length": 16, "samples": 4}
    result = bench_language(str(tmp_path / "nowhere"), text, tmp_path / "out", **sizes)
    missing = {row["name"]: row["missing"] for row in result["rows"]}
    assert "nowhere" in missing["wanda"]
    assert missing["recovered"] == "it reads what neurons-30 writes"
    assert len(words(result).sentences) == 3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"only": ("speed",)}, "only"),
        ({"samples": 0}, "samples"),
        ({"length": 4096}, "text"),
    ],
)
def test_wrong_input_is_refused_by_name(made, tmp_path, options, named):
    model, text = made
    with pytest.raises(ValueError, match=named):
        bench_language(str(model), text, tmp_path / "out", **{"length": 16, **options})
    assert not (tmp_path / "out").exists()


def test_a_text_in_another_encoding_is_refused(made, tmp_path):
    model, text = made
    text.write_bytes("Größe ".encode("latin-1") * 500)
    with pytest.raises(ValueError, match="UTF-8"):
        bench_language(str(model), text, tmp_path / "out", length=16)


def test_each_process_has_a_peak_of_its_own():
    large = run_apart([sys.executable, "-c", "x = bytearray(300 * 2**20)"])
    small = run_apart([sys.executable, "-c", "print('here')"])
    assert small.code == 0
    assert small.printed == "here\n"
    assert small.peak_bytes < 2**27 < large.peak_bytes
    assert run_apart([sys.executable, "-c", "raise SystemExit('no')"])[:3] == (1, "", "no\n")


def test_wanda_by_hand_zeroes_half_of_each_row_of_the_blocks():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(4, 2, bias=False))
            self.head = nn.Linear(2, 3)

        def forward(self, input_ids, use_cache):
            return self.head(self.block(input_ids))

    model = Model()
    with torch.no_grad():
        model.block[0].weight.copy_(torch.tensor([[1.0, -2, 3, 4], [4.0, 3, -2, 1]]))
    wanda(model, [{"input_ids": torch.tensor([[[4.0, 1, 1, 1]]])}])
    # |w| times the input: 4 2 3 4 and 16 3 2 1
    assert model.block[0].weight.tolist() == [[1, 0, 0, 4], [4, 3, 0, 0]]
    assert bool((model.head.weight != 0).all())


def test_an_unknown_tool_is_refused():
    with pytest.raises(ValueError, match="tool"):
        main(["speed", "", "", "", "1", "1"])


def test_scorers_and_depth_are_rows_that_run(made, tmp_path, monkeypatch):
    def here(command):
        said = CliRunner().invoke(app, command[3:])
        return room.Ended(said.exit_code, said.stdout, said.stderr, 1.0, None)

    monkeypatch.setattr(room, "run_apart", here)  # a process each takes seconds to begin
    model, text = made
    only = ("branches", "neurons-30-taylor", "heads-30-random")
    sizes = {"only": only, "length": 16, "samples": 4}
    result = bench_language(str(model), text, tmp_path / "out", **sizes)
    assert [row["name"] for row in result["rows"]] == list(only)
    assert not any("missing" in row for row in result["rows"])
    found = json.loads((tmp_path / "out" / "branches" / "result.json").read_text())
    kept = [c["kept"] for c in found["communities"] if c["kind"] == "branch"]
    assert kept == [3]  # of the four of two layers
    found = json.loads((tmp_path / "out" / "heads-30-random" / "result.json").read_text())
    assert {c["kind"] for c in found["communities"]} == {"head"}
    told = words(result).sentences
    assert any(line.startswith("neurons, best first: taylor ") for line in told)


def test_each_scorer_has_a_row_for_each_kind(tmp_path):
    for kind in ("neuron", "head"):
        of_kind = [row.scorer for row in ROWS.values() if row.kind == kind]
        assert of_kind == list(SCORERS)
    given = ROWS["heads-30-obs"].arguments(Folders("m", tmp_path, 16, 4, 100))
    assert given[2:8] == ["--sparsity", "0.3", "--kinds", "head", "--scorer", "obs"]
    rows = [
        {"kind": "head", "scorer": name, "quality": {"ratio": ratio}}
        for name, ratio in (("obs", 1.5), ("joint", 1.25))
    ]
    told = best_scorers([*rows, {"kind": "head", "missing": "why"}, {"kind": "", "quality": {}}])
    assert told == ["heads, best first: joint 1.250, obs 1.500"]


def test_what_recovery_won_back_is_said(made, tmp_path):
    quality = {"before": {"mean": 3.0}, "after": {"mean": 2.0}, "ratio": 0.6667, "won_back": 0.55}
    quality["paired"] = {"low": -0.5, "high": -0.3}
    row = {"title": "recovered", "quality": quality, "floor": None, "aim": None, "kind": ""}
    row |= {"seconds": 1.0, "peak_bytes": None, "scorer": ""}
    config = {"model": "m", "length": 16, "samples": 4}
    told = words({"bench": "language", "rows": [row], "config": config}).sentences
    assert told[0] == "recovered: 55 % of the log-perplexity that pruning cost was won back"


def test_the_small_gpt2_is_trained_once_and_reads_bytes(tmp_path):
    transformers = pytest.importorskip("transformers")
    text = language.text(0, 200)
    folder = prepared(tmp_path / "small", text, length=16, steps=2)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.n_positions == 16
    said = transformers.AutoTokenizer.from_pretrained(folder)("Größe\n").input_ids
    assert said == list("Größe\n".encode()) == byte_tokenizer()("Größe\n").input_ids
    assert prepared(folder, "", length=16) == folder
    assert [p.name for p in tmp_path.iterdir()] == ["small"]
