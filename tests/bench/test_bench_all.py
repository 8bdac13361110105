"""All benchmarks in one folder: kept, resumed, one page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from natsel.common.extras import MissingExtraError
from natsel_bench import all_parts as room
from natsel_bench.words import Words, to_markdown, words


def test_two_benchmarks_run_are_kept_and_written_as_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bench"
    summary = room.bench_all(out, only=("step", "search"), quick=True)
    assert set(summary["results"]) == {"step", "search"}
    text = (out / "bench.md").read_text()
    assert "## A training step with evolution" in text
    assert "candidates per second" in text
    assert "these times mean nothing" in text
    assert json.loads((out / "bench.json").read_text())["results"] == summary["results"]

    def again(*_: object) -> dict[str, object]:
        raise AssertionError("a kept result is not measured again")

    def lacks(*_: object) -> dict[str, object]:
        raise MissingExtraError("torch_pruning is not installed: pip install 'natsel[bench]'")

    runs = {**dict.fromkeys(room.TITLES, again), "peers": lacks}
    monkeypatch.setattr(room, "_RUNS", runs)
    with pytest.raises(ValueError, match="resume"):
        room.bench_all(out, only=("step",), quick=True)
    second = room.bench_all(out, only=("step", "search", "peers"), quick=True, resume=True)
    assert second["results"] == summary["results"]
    assert second["missing"] == {
        "peers": "torch_pruning is not installed: pip install 'natsel[bench]'"
    }
    assert "Not run: torch_pruning is not installed" in (out / "bench.md").read_text()


def test_names_and_half_a_model_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only='speed'"):
        room.bench_all(tmp_path / "a", only=("speed",))
    with pytest.raises(ValueError, match="model='mlp', data=None are not"):
        room.bench_all(tmp_path / "a", model="mlp")
    assert not (tmp_path / "a").exists()


def test_every_benchmark_has_words_and_a_run() -> None:
    assert set(room.TITLES) == set(room._RUNS)
    row = {"ratio": 1.5, "quartile_low": 1.25, "quartile_high": 2.0}
    select = {
        "bench": "select",
        "share": 0.7,
        "pass": "numpy.dot",
        "exponents": {"natsel, numpy, float32": 1.0},
        "rows": [
            {
                **row,
                "method": "natsel, numpy",
                "dtype": "float32",
                "size": 10**8,
                "bytes_per_weight": None,
                "exact_count": True,
            }
        ],
    }
    found = words(select)
    assert found.rows == [["natsel, numpy", "float32", "1e+08", "1.5", "1.2 to 2.0", "", "yes"]]
    assert found.sentences[0].endswith("to the power 1.00.")
    assert "| 1e+08 | 1.5 |" in to_markdown(found)
    assert to_markdown(Words("t", (), [], ["s"])) == "t\n\ns\n"
