"""What every command says and writes when all is well."""

import functools
import json
import subprocess
import sys

import pytest
import torch

import natsel as library
from natsel import models
from natsel.common.files import read_json
from natsel_papers import reproduce_evolution as reproduction


def one_object(text):
    """Read the single JSON object that is all of a text."""
    assert text.endswith("}\n")
    assert "\n" not in text[:-1]
    return json.loads(text)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), ("evolve", "inspect", "reproduce", "bench", "--version")),
        (("evolve",), ("--out", "--dynamics", "--resume", "--json", "--quiet")),
        (("inspect",), ("--in-shape", "--json")),
        (("reproduce",), ("evolution",)),
        (("reproduce", "evolution"), ("--seeds", "--workers", "--resume")),
        (("bench",), ("step", "peers", "score", "extract")),
        (("bench", "score"), ("--repeats", "--batches", "--quick", "--json")),
        (("bench", "extract"), ("--repeats", "--compile", "--quick", "--json")),
        (("bench", "peers"), ("--out", "--tool", "--quick", "--limit", "--resume")),
        (("bench", "step"), ("--dynamics", "--repeats")),
    ],
)
def test_help(natsel, command, words):
    result = natsel(*command, "--help")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert all(word in result.stdout for word in words)


def test_version(natsel):
    result = natsel("--version")
    assert (result.exit_code, result.stdout) == (0, library.__version__ + "\n")


@pytest.mark.parametrize("command", [(), ("reproduce",), ("bench",)])
def test_no_command_shows_help(natsel, command):
    result = natsel(*command)
    assert result.exit_code == 2
    assert "Usage:" in result.output


def test_the_commands_import_what_computes_only_when_they_run():
    code = (
        "import sys, types; package = types.ModuleType('natsel');"
        f"package.__path__ = {list(library.__path__)!r}; sys.modules['natsel'] = package;"
        "import natsel.cli.main;"
        "print({'torch', 'scipy', 'plotly', 'natsel.runs'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_evolve(natsel, fast, tmp_path):
    out = tmp_path / "run"
    result = natsel("evolve", "--out", out, *fast)
    assert (result.exit_code, result.stderr) == (0, "")
    told = read_json(out / "result.json")
    assert f"{told['extinct']['count']} of 24 populations went extinct" in result.stdout
    assert f"{told['extracted']['accuracy']:.2%} after they were removed" in result.stdout
    assert str(out / "report.html") in result.stdout
    assert "<html" in (out / "report.html").read_text()
    assert told["config"]["options"] == {"hidden": [16, 8]}
    assert told["config"]["rate"] == 0.3
    assert told["config"]["patience"] == 2

    again = natsel("evolve", "--out", out, *fast, "--resume", "--json")
    assert one_object(again.stdout) == told


def test_evolve_json_is_all_there_is(natsel, fast, tmp_path, capfd):
    run = natsel("evolve", "--out", tmp_path / "run", *fast, "--json", "--capacity", "0.5")
    assert (run.exit_code, run.stderr) == (0, "")
    result = one_object(run.stdout)
    assert result == read_json(tmp_path / "run" / "result.json")
    assert result["capacity"]["asked"] == 0.5
    # Nor does anything write past Python.
    assert capfd.readouterr() == ("", "")


def test_evolve_quiet_says_nothing(natsel, fast, tmp_path):
    result = natsel("evolve", "--out", tmp_path / "run", *fast, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "run" / "report.html").is_file()


def test_evolve_tells_how_it_landed(natsel, fast, tmp_path):
    result = natsel("evolve", "--out", tmp_path / "run", *fast, "--capacity", "0.5", "--no-report")
    assert result.exit_code == 0
    assert "the environment carries 50.0%" in result.stdout
    assert not (tmp_path / "run" / "report.html").exists()


def test_evolve_without_baselines_and_cuts(natsel, fast, tmp_path):
    arguments = ("evolve", "--out", tmp_path / "run", *fast, "--no-baselines", "--sparsity", "")
    result = natsel(*arguments)
    assert result.exit_code == 0
    assert read_json(tmp_path / "run" / "result.json")["table"] == []


def test_inspect(natsel):
    result = natsel("inspect", "mlp", "--in-shape", "1,8,8")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "2 communities, 768 populations" in result.stdout
    assert "it is an output of the model" in result.stdout


@pytest.mark.parametrize("model", ["mlp", *models.TASKS])
def test_inspect_needs_no_shape(natsel, model):
    found = one_object(natsel("inspect", model, "--json").stdout)
    assert found["num_populations"] > 0
    shape = models.default_shape(model)
    assert shape == ((64,) if model in models.TASKS else (1, 28, 28))
    same = natsel("inspect", model, "--in-shape", ",".join(map(str, shape)), "--json")
    assert one_object(same.stdout) == found


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet20", "vit"])
def test_inspect_json(natsel, model):
    result = natsel("inspect", model, "--in-shape", "3,32,32", "--num-classes", "7", "--json")
    assert result.exit_code == 0
    found = one_object(result.stdout)
    assert found["num_populations"] == sum(c["size"] for c in found["communities"])
    assert {"name", "kind", "size", "parameters_each", "macs_each", "gates"} <= set(
        found["communities"][0]
    )
    assert any(r["size"] == 7 and r["reason"] for r in found["refused"])


@pytest.fixture
def _small_grid(monkeypatch):
    grid = functools.partial(reproduction.Grid, dynamics=("logistic",), sparsities=(0.5,))
    monkeypatch.setattr(reproduction, "Grid", grid)
    monkeypatch.setattr(reproduction, "HIDDEN", (24, 12))


REPRODUCE = ("--dataset", "digits", "--seeds", "2", "--epochs", "1", "--workers", "1")


@pytest.mark.usefixtures("_small_grid")
def test_reproduce(natsel, tmp_path):
    out = tmp_path / "out"
    result = natsel("reproduce", "evolution", "--out", out, *REPRODUCE)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "50% of the neurons removed, no fine-tuning: logistic keeps" in result.stdout
    assert sorted(p.name for p in out.iterdir()) == [
        *("config.json", "report.html", "summary.json", "table.json", "table.md", "trainings"),
    ]
    assert "from scratch" in (out / "table.md").read_text()
    again = natsel("reproduce", "evolution", "--out", out, *REPRODUCE, "--resume", "--json")
    summary = one_object(again.stdout)
    assert summary["best"] == "logistic"
    assert summary["config"]["recipe"]["batch_size"] == 32
    refused = natsel("reproduce", "evolution", "--out", out, *REPRODUCE, "--quiet")
    assert refused.exit_code == 2
    quiet = natsel("reproduce", "evolution", "--out", out, *REPRODUCE, "--resume", "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_bench_score_and_extract(natsel, monkeypatch):
    small = {"small": ("mlp", (1, 4, 4), 4, {"hidden": (6, 5)})}
    monkeypatch.setattr("natsel_bench.score.NETWORKS", small)
    for command, said in (("score", "brute force"), ("extract", "equals the masked one")):
        result = natsel("bench", command, "--quick")
        assert (result.exit_code, result.stderr) == (0, "")
        assert said in result.stdout
        result = natsel("bench", command, "--quick", "--json")
        assert one_object(result.stdout)["bench"] == command


def test_bench(natsel, monkeypatch):
    small = ("bench", "step", "--quick", "--batch-size", "4", "--threads", "1")
    result = natsel(*small)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "One training step of 784-512-256-10" in result.stdout
    assert "Quick: it works; too few steps" in result.stdout
    found = one_object(natsel(*small, "--json").stdout)
    cases = [(row["optimizer"], row["every"]) for row in found["rows"]]
    assert cases == [(name, every) for name in ("Adam", "Adam, fused") for every in (1, 5, 10)]
    assert natsel(*small, "--quiet").output == ""

    def fails(model):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", fails)
    result = natsel(*small, "--compiled")
    assert (result.exit_code, result.stderr) == (0, "")
    told = " ".join(result.stdout.split())
    assert "torch.compile does not work here, so nothing was compiled: no C++ compiler" in told
