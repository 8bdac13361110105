"""natsel audit: on digits, in words, as JSON, as a page, and with wrong input."""

from __future__ import annotations

import json
import re

import pytest

from natsel.common.files import read_json
from natsel.fitness import FITNESS, Fitness


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder with a small network that was trained on digits."""
    from natsel.runs.evolve import RunConfig, evolve

    out = tmp_path_factory.mktemp("trained") / "run"
    ecology = {"rate": 0.3, "horizon": 5, "patience": 2, "pressure": 1.5}
    config = RunConfig(
        "digits", epochs=1, learning_rate=0.01, sparsities=(), baselines=False,
        options={"hidden": (32, 16)}, ecology=ecology,
    )  # fmt: skip
    evolve(config, out)
    return out


def test_digits(natsel, trained, tmp_path):
    out = tmp_path / "audit"
    arguments = ("audit", trained, "--scorers", "l2,l1,log-l2,taylor,wanda", "--data", "digits")
    told = natsel(*arguments, "--sparsity", "0.25,0.5", "--out", out)
    assert (told.exit_code, told.stderr) == (0, ""), told.output
    assert "log-l2 is l2: one order, ties included" in told.stdout
    assert re.search(
        r"l1 and l2 agree on \d+ % of the survivors at 25 %, \d+ % at 50 %", told.stdout
    )
    assert re.search(r"l2 +│ log-l2 +│ the same +│ +1.000", told.stdout)
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "result.json"]
    written = read_json(out / "result.json")
    assert written["classes"] == [["l2", "log-l2"], ["l1"], ["taylor"], ["wanda"]]
    assert (out / "report.html").read_text().count('class="plot"') == 5 * 3

    again = natsel(*arguments, "--sparsity", "0.25,0.5", "--out", out, "--json")
    assert (again.exit_code, again.stderr) == (0, "")
    assert json.loads(again.stdout) == read_json(out / "result.json") == written
    assert again.stdout.count("\n") == 1


def test_quiet_and_one_community(natsel):
    arguments = ("audit", "mlp", "--scorers", "l1,l2", "--include", "layers.2")
    result = natsel(*arguments, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    found = json.loads(natsel(*arguments, "--json").stdout)
    assert [place["name"] for place in found["communities"]] == ["layers.2"]
    assert found["sparsities"] == [0.5, 0.7]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--scorers", "l1"), "scorers=['l1'] is not allowed: expected at least two"),
        (("--scorers", "l1,l1"), "each once"),
        (("--scorers", "l1,,l2"), "names separated by commas"),
        (("--scorers", ""), "names separated by commas"),
        (("--scorers", "l1,tailor"), "did you mean 'taylor'?"),
        (("--scorers", "l1,taylor"), "data=None is not allowed: expected the name of a data set"),
        (("--sparsity", "0.7,0.5"), "sparsities=[0.7, 0.5] is not allowed: expected ascending"),
        (("--sparsity", "0.5,0.5"), "each once"),
        (("--sparsity", "1"), "sparsity=1.0 is not allowed: expected a number in (0, 1)"),
        (("--sparsity", "0"), "sparsity=0.0"),
        (("--sparsity", "nan"), "sparsity=nan"),
        (("--sparsity", ""), "at least one number"),
        (("--sparsity", "half"), "sparsity='half'"),
        (("--sparsity", "0.999"), "sparsity"),
        (("--include", "layerz"), "include='layerz'"),
        (("--data", "digitz"), "data='digitz'"),
    ],
)
def test_wrong_input(natsel, tmp_path, arguments, told):
    out = tmp_path / "audit"
    given = {"--scorers": "l1,l2"} | dict([arguments])
    result = natsel("audit", "mlp", *[x for pair in given.items() for x in pair], "--out", out)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert not out.exists()


def test_a_model_that_is_not_there(natsel):
    result = natsel("audit", "mpl", "--scorers", "l1,l2")
    assert result.exit_code == 2
    assert result.stderr.startswith("natsel: model='mpl'")


def test_a_folder_of_something_else_is_left_alone(natsel, trained, tmp_path):
    before = (trained / "result.json").read_bytes()
    file = tmp_path / "file"
    file.write_text("mine")
    for out, told in ((trained, "another run"), (file, "is none"), (tmp_path, "new or empty")):
        result = natsel("audit", "mlp", "--scorers", "l1,l2", "--out", out)
        assert (result.exit_code, result.stdout) == (2, "")
        assert told in result.stderr
    assert (trained / "result.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["file"]


def test_a_score_that_is_not_a_number_ends_in_one_line(natsel, tmp_path, monkeypatch):
    monkeypatch.setitem(FITNESS, "l1", Fitness("l1", lambda parts: parts.mass * float("nan")))
    out = tmp_path / "audit"
    result = natsel("audit", "mlp", "--scorers", "l2,l1", "--out", out)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "natsel: scorer 'l1' gave NaN or infinity in 'layers.0'\n"
    assert not out.exists()
