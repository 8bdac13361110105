"""``natsel prune --search``: evolution decides who gives how much."""

from __future__ import annotations

import json

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


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), "data=None is not allowed"),
        (("--data", "digits", "--scope", "global"), "search=4, scope='global' are not allowed"),
        (("--data", "digits", "--scorer", "adaptive"), "search=4, scorer='adaptive'"),
        (("--data", "digits", "--kinds", "heads"), "kinds='heads' is not allowed"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(natsel, tmp_path, more, told):
    out = tmp_path / "small"
    done = natsel("prune", "mlp", "--out", out, "--search", "4", *more)
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()
