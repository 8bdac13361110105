"""Pruning and verifying from the command line: on digits, to a budget, and with wrong input."""

import json

import pytest
import torch

import natsel as library

QUICK = ("--scorer", "taylor", "--data", "digits", "--no-measure")


@pytest.fixture
def trained(natsel, fast, tmp_path):
    """A run folder with a small network that was trained on digits."""
    out = tmp_path / "run"
    assert natsel("evolve", "--out", out, *fast, "--no-report").exit_code == 0
    return out


def test_prune_meets_the_budget_and_verify_agrees(natsel, trained, tmp_path):
    small = tmp_path / "small"
    told = natsel("prune", trained, "--budget", "parameters=0.5", "--out", small, *QUICK, "--json")
    assert (told.exit_code, told.stderr) == (0, "")
    result = json.loads(told.stdout)
    before, after = result["parameters"]
    assert 0.4 * before < after <= 0.5 * before
    assert result["verification"]["passed"]
    assert set(result["accuracy"]) == {"dense", "small", "uncompensated"}
    model = library.load(small)
    assert sum(p.numel() for p in model.parameters()) == after
    checked = natsel("verify", trained, small, "--data", "digits", "--json")
    assert checked.exit_code == 0, checked.output
    found = json.loads(checked.stdout)
    assert found["passed"]
    assert set(found["on"]) == {"random inputs", "digits, test split"}
    assert found["accuracy"] == result["accuracy"]


def test_verify_refuses_a_model_of_other_inputs(natsel, tmp_path):
    """The reference network has the widths of the saved one, and reads 28 by 28 pictures."""
    small = tmp_path / "small"
    model = library.models.build("mlp", in_shape=(1, 8, 8), num_classes=10)
    pruned = library.prune(model, torch.rand(2, 1, 8, 8), library.Sparsity(0.5))
    library.save(pruned.small, small)
    told = natsel("verify", "mlp", small)
    assert told.exit_code == 2, told.output
    assert told.stderr.count("\n") == 1
    assert "model='mlp' is not allowed: expected the model that" in told.stderr


def test_survivors_take_over_on_request_or_where_there_are_data(natsel, trained, tmp_path):
    cut = ("prune", trained, "--budget", "sparsity=0.5", "--data", "digits", "--no-measure")
    told = {}
    for name, option in (("plain", ["--no-compensate"]), ("asked", ["--compensate"]), ("by", [])):
        said = natsel(*cut, "--out", tmp_path / name, *option, "--json")
        assert (said.exit_code, said.stderr) == (0, "")
        told[name] = json.loads(said.stdout)
    assert told["plain"]["compensation"] is None
    assert set(told["plain"]["accuracy"]) == {"dense", "small"}
    assert told["asked"]["compensation"] == told["by"]["compensation"]
    done = told["by"]["compensation"]
    assert done["summary"].startswith("compensated 2 of 2 consumers: held-out squared error")
    assert told["by"]["accuracy"]["uncompensated"] == told["plain"]["accuracy"]["small"]
    said = natsel("prune", trained, "--out", tmp_path / "without", "--no-measure")
    assert "compensated" not in said.stdout
    said = natsel("prune", trained, "--out", tmp_path / "none", "--compensate")
    assert said.exit_code == 2
    assert "compensation reads one" in said.stderr


def test_verify_says_what_was_compensated_and_compares_the_rest(natsel, trained, tmp_path):
    out = tmp_path / "small"
    natsel("prune", trained, "--budget", "sparsity=0.5", "--data", "digits", "--out", out)
    said = natsel("verify", trained, out)
    assert said.exit_code == 0, said.output
    assert "random inputs: equal" in said.stdout
    assert said.stdout.count("4 tensors differ from the masked model's on purpose") == 1
    small = library.load(out)
    with torch.no_grad():
        small.layers[0].weight.mul_(1.1)
    library.save(small, out)
    said = natsel("verify", trained, out)
    assert said.exit_code == 1
    assert "random inputs: NOT EQUAL" in said.stdout


def test_what_is_said(natsel, tmp_path):
    out = tmp_path / "small"
    said = natsel("prune", "mlp", "--budget", "sparsity=0.5", "--out", out, "--no-measure")
    assert said.exit_code == 0, said.output
    for words in ("256 ", "512", "parameters: 535,818 ->", "extracted = masked: equal", "Saved"):
        assert words in said.stdout
    said = natsel("verify", "mlp", out)
    assert said.exit_code == 0, said.output
    assert "random inputs: equal" in said.stdout


def test_another_model_is_not_the_one_that_was_cut(natsel, tmp_path):
    out = tmp_path / "small"
    natsel("prune", "mlp", "--budget", "sparsity=0.5", "--out", out, "--no-measure")
    told = natsel("verify", "mlp", out, "--seed", "1")
    assert told.exit_code == 1
    assert "random inputs: NOT EQUAL" in told.stdout
    assert told.stderr == f"natsel: {out} differs from the masked mlp\n"
    told = natsel("verify", "cnn", out)
    assert told.exit_code == 2
    assert told.stderr.startswith("natsel: model='CNN' is not allowed")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("mlp", "--budget", "macs"), "budget='macs' is not allowed: expected NAME=SHARE"),
        (("mlp", "--budget", "flops=0.5"), "budget='flops=0.5'"),
        (("mlp", "--budget", "macs=1.5"), "macs=1.5"),
        (("mlp", "--budget", "macs=nan"), "macs=nan"),
        (("mlp", "--scorer", "tailor"), "scorer='tailor'"),
        (("mlp", "--scorer", "taylor"), "data=None is not allowed"),
        (("mlp", "--scope", "layer"), "scope='layer'"),
        (("mlp", "--exclude", "layerz.*"), "exclude='layerz.*'"),
        (("mpl",), "model='mpl'"),
        (("nowhere/model",), "model='nowhere/model'"),
        (("mlp", "--multiple-of", "0"), "multiple_of=0"),
        (("mlp", "--multiple-of", "eight"), "multiple_of='eight' is not allowed: expected a whole"),
        (("mlp", "--multiple-of", "1.5"), "multiple_of='1.5'"),
    ],
)
def test_wrong_input(natsel, tmp_path, arguments, told):
    out = tmp_path / "small"
    result = natsel("prune", *arguments, "--out", out)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert not out.exists()


def test_the_residual_width_is_cut_on_request(natsel, tmp_path):
    model = library.models.build("vit", in_shape=(1, 8, 8), num_classes=3, dim=16, depth=1, heads=2)
    assert library.discover(model, torch.randn(1, 1, 8, 8), residual=True)["embedding"].size == 16
    result = natsel("inspect", "vit", "--in-shape", "1,8,8", "--json", "--residual")
    kinds = {c["kind"]: c["exact"] for c in json.loads(result.stdout)["communities"]}
    assert kinds == {"channel": False, "head": True, "neuron": True}


@pytest.mark.parametrize("scorer", ["magnitude", "adaptive"])
def test_a_multiple_that_is_measured_is_told(natsel, trained, tmp_path, scorer):
    options = ("--scorer", scorer, "--data", "digits", "--no-measure", "--budget", "macs=0.6")
    told = natsel(
        *("prune", trained, "--multiple-of", "auto", "--out", tmp_path / "small", *options),
    )
    assert told.exit_code == 0, told.output
    result = json.loads((tmp_path / "small" / "result.json").read_text())
    found = result["rounding"]
    assert result["config"]["multiple_of"] == "auto"
    assert found["summary"] in told.stdout
    assert all(
        line["kept"] % found["multiple"] == 0 or line["kept"] == line["size"]
        for line in result["communities"]
    )
