"""``natsel prune --search``: evolution decides who gives how much."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest


@pytest.mark.parametrize(("model", "kinds"), [("mlp", None), ("vit", "neuron,head,branch")])
def test_a_search_decides_and_is_told(natsel, tmp_path, model, kinds):
    out = tmp_path / "small"
    more = ["--kinds", kinds] if kinds else []
    done = natsel(
        "prune",
        model,
        "--out",
        out,
        "--data",
        "digits",
        "--search",
        "6",
        "--budget",
        "parameters=0.6",
        "--no-measure",
        "--json",
        *more,
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    levels = found["levels"]
    assert levels["evaluations"] == 6
    assert levels["kept"] in ("searched", "uniform")
    assert levels["history"][-1]["best"] <= levels["history"][0]["best"]
    assert found["parameters"][1] <= 0.6 * found["parameters"][0]
    assert found["config"]["search"] == 6
    assert json.loads((out / "result.json").read_text())["levels"] == levels
    picture = ElementTree.parse(out / "search.svg")
    assert picture.getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("depth", "budget"),
    [
        (("--blocks", "--kinds", "branch"), "sparsity=0.5"),
        (("--kinds", "branch"), "parameters=0.6"),
    ],
)
def test_depth_is_searched(natsel, tmp_path, depth, budget):
    out = tmp_path / "small"
    given = ("--data", "digits", "--search", "4", "--budget", budget, "--no-measure", "--json")
    done = natsel("prune", "vit", "--out", out, *given, *depth)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["parameters"][1] < found["parameters"][0]
    assert found["levels"]["evaluations"] <= 8
    if "branch" in depth:
        (level,) = found["levels"]["levels"].values()
        assert level[0] < level[1] == (6 if "--blocks" in depth else 12)
        assert len(found["levels"]["out"]) == level[1] - level[0]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), "data=None is not allowed"),
        (("--data", "digits", "--scope", "global"), "search=4, scope='global' are not allowed"),
        (("--data", "digits", "--scorer", "adaptive"), "search=4, scorer='adaptive'"),
        (("--data", "digits", "--kinds", "heads"), "kinds='heads' is not allowed"),
        (("--data", "digits", "--kinds", "branch"), "kinds='branch'"),
        (("--data", "digits", "--blocks", "--branches"), "branches=True, blocks=True"),
        (("--data", "digits", "--budget", "parameters=0.0001"), "the nearest that any levels"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(natsel, tmp_path, more, told):
    out = tmp_path / "small"
    done = natsel("prune", "mlp", "--out", out, "--search", "4", *more)
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_a_rival_without_a_search_is_refused(natsel, tmp_path):
    done = natsel(
        "prune", "mlp", "--out", tmp_path / "a", "--data", "digits", "--rival", "adaptive"
    )
    assert done.exit_code == 2
    assert "rival='adaptive', search=None" in done.output + done.stderr


@pytest.mark.slow
def test_a_search_is_no_worse_than_adaptive(natsel, tmp_path):
    more = ("--search", "6", "--rival", "adaptive", "--no-measure", "--json")
    done = natsel("prune", "mlp", "--out", tmp_path / "a", "--data", "digits", *more)
    assert done.exit_code == 0, done.output
    levels = json.loads(done.stdout)["levels"]
    assert levels["rivals"]["adaptive"]["n"] > 0
    assert "adaptive" in levels["sentence"]
