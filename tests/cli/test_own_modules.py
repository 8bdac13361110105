"""``module:name``: laws, signals, networks, loaders and budgets from the current folder."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import natsel as library
from natsel.dynamics import get as find_law
from natsel.extraction.plan import _checksum
from natsel.fitness import get as find_fitness

LAWS = '''
"""A law that is a function, one that says more of itself, and what is none."""
from natsel.dynamics import DYNAMICS, Dynamic

def decay(mass, fitness, dt, *, pressure=1.0, competition=None, generator=None):
    return mass * (1 + dt * (fitness - pressure)).clamp(0.0, 1.0)

slower = Dynamic("slower", decay, "box", rate=0.005, pressure=1.5)
twin = DYNAMICS["logistic"].step
number = 3

def short(mass, fitness):
    return mass
'''

SIGNALS = """
from natsel.features import FeatureClass, FEATURES
from natsel.fitness import FITNESS, Fitness

weights = Fitness("weights", FITNESS["magnitude"].signal)

def gradients(parts):
    return FITNESS["taylor"].signal(parts)

ranks = FeatureClass("ranks", (FEATURES["identity"],), "monotone")
"""

NETWORK = """
import torch
from torch import nn
from .data import CLASSES, WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU())
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.head(self.body(x))

def bare():
    return Net()

def factory():
    return Net(), torch.zeros(2, WIDTH)

ready = Net()

def digits():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))

def text():
    return "net"

def broken():
    raise KeyError("weights.pt")

def needs(path):
    return Net()
"""

DATA = """
import torch
from torch.utils.data import DataLoader, TensorDataset

WIDTH, CLASSES = 10, 3
centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(1))
labels = torch.arange(240) % CLASSES
noise = torch.randn(240, WIDTH, generator=torch.Generator().manual_seed(2))
inputs = centres[labels] + 0.3 * noise

def loader():
    return DataLoader(TensorDataset(inputs, labels), batch_size=32, shuffle=True)

def endless():
    while True:
        yield inputs, labels

def named():
    return [{"x": inputs, "labels": labels}]

ready = [(inputs, labels)]

def unlabelled():
    return [(inputs,)]

def floats():
    return [(inputs, labels.float())]

def nothing():
    return []

number = 3
"""

BUDGETS = """
from natsel.selection import Gauge

class Bytes:
    def __init__(self, most):
        self.most = most

    def gauge(self, communities):
        read = lambda survivors: 4.0 * communities.price(survivors).parameters
        return Gauge("bytes", self.most, self.most, read)

def none(number):
    return number
"""


@pytest.fixture
def package(monkeypatch, tmp_path, request):
    """A package in the current folder, of another name in each test: modules stay imported."""
    name = f"own_{abs(hash(request.node.name))}"
    folder = tmp_path / "work" / name
    folder.mkdir(parents=True)
    for module, text in (
        ("__init__", ""),
        ("laws", LAWS),
        ("signals", SIGNALS),
        ("net", NETWORK),
        ("data", DATA),
        ("budgets", BUDGETS),
        ("bad", "import module_that_is_nowhere"),
        ("wrong", "def ("),
        ("ends", "raise SystemExit(0)"),
    ):
        (folder / f"{module}.py").write_text(text)
    monkeypatch.chdir(folder.parent)
    yield name
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]


def test_a_law_of_ones_own_runs_is_recorded_and_resumed(natsel, fast, package, tmp_path):
    out, law = tmp_path / "run", f"{package}.laws:decay"
    told = natsel("evolve", "--out", out, *fast, "--no-report", "--dynamics", law, "--json")
    assert (told.exit_code, told.stderr) == (0, "")
    result = json.loads(told.stdout)
    assert json.loads((out / "config.json").read_text())["dynamics"] == law
    assert result["config"]["dynamics"] == law
    assert result["extinct"]["count"] > 0
    assert str(tmp_path / "work") not in sys.path
    (out / "result.json").unlink()
    again = natsel(
        *("evolve", "--out", out, *fast, "--no-report", "--dynamics", law, "--resume", "--json")
    )
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["communities"] == result["communities"]
    other = natsel("evolve", "--out", out, *fast, "--no-report", "--resume")
    assert other.exit_code == 2
    assert "holds another run" in other.stderr


def test_a_law_of_the_table_by_its_module_is_that_law(natsel, fast, package, tmp_path):
    told = {}
    for name in ("logistic", f"{package}.laws:twin"):
        out = tmp_path / name.replace(":", "-")
        said = natsel(*("evolve", "--out", out, *fast, "--no-report", "--dynamics", name, "--json"))
        assert said.exit_code == 0, said.stderr
        told[name] = json.loads(said.stdout)
    first, second = told.values()
    assert first["communities"] == second["communities"]
    assert first["history"] == second["history"]


def test_what_a_law_says_of_itself_is_taken(natsel, fast, package, tmp_path):
    words = [w for w in fast if w != "--set" and "=" not in w]
    out = tmp_path / "run"
    said = natsel(
        *("evolve", "--out", out, *words, "--no-report", "--no-baselines"),
        *("--dynamics", f"{package}.laws:slower", "--fitness", f"{package}.signals:gradients"),
    )
    assert said.exit_code == 0, said.stderr
    config = json.loads((out / "config.json").read_text())
    assert (config["rate"], config["pressure"]) == (0.005, 1.5)
    assert config["fitness"] == f"{package}.signals:gradients"


@pytest.mark.parametrize("factory", ["bare", "Net", "factory", "ready"])
@pytest.mark.parametrize("loader", ["loader", "endless", "named", "ready"])
def test_a_network_and_a_loader_of_ones_own_are_pruned(natsel, package, tmp_path, factory, loader):
    model, data = f"{package}.net:{factory}", f"{package}.data:{loader}"
    if loader == "endless":
        (tmp_path / "work" / package / "data.py").write_text(
            DATA + "\nfrom natsel.runs import own_data\nown_data.MAX_ELEMENTS = 10_000\n"
        )
    out = tmp_path / "small"
    told = natsel(
        *("prune", model, "--data", data, "--scorer", "taylor", "--budget", "parameters=0.5"),
        *("--out", out, "--no-measure", "--json"),
    )
    assert (told.exit_code, told.stderr) == (0, "")
    result = json.loads(told.stdout)
    before, after = result["parameters"]
    assert (before, after <= before / 2) == (10 * 24 + 24 + 24 * 12 + 12 + 12 * 3 + 3, True)
    assert result["verification"]["passed"]
    assert set(result["accuracy"]) == {"dense", "small", "uncompensated"}
    assert (result["config"]["model"], result["config"]["data"]) == (model, data)
    checked = natsel("verify", model, out, "--data", data, "--json")
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["accuracy"] == result["accuracy"]


def test_scorers_and_budgets_of_ones_own(natsel, package, tmp_path):
    told = {}
    for scorer in ("magnitude", f"{package}.signals:weights", f"{package}.signals:ranks", "V1a"):
        out = tmp_path / scorer.replace(":", "-")
        said = natsel(
            *("prune", f"{package}.net:factory", "--scorer", scorer, "--out", out, "--json"),
            *("--budget", f"{package}.budgets:Bytes=1200", "--no-measure"),
        )
        assert (said.exit_code, said.stderr) == (0, "")
        result = json.loads(said.stdout)
        assert result["config"]["scorer"] == scorer
        assert 4 * result["parameters"][1] <= 1200 < 4 * result["parameters"][0]
        told[scorer] = result["communities"]
    own, ranks = f"{package}.signals:weights", f"{package}.signals:ranks"
    assert told[own] == told["magnitude"]
    assert told[ranks] == told["V1a"]


def test_audit_and_inspect_take_them(natsel, package):
    own = f"{package}.signals:weights"
    told = natsel(
        *("audit", f"{package}.net:factory", "--scorers", f"magnitude,{own}", "--json"),
    )
    assert (told.exit_code, told.stderr) == (0, "")
    assert json.loads(told.stdout)["classes"] == [["magnitude", own]]
    told = natsel("inspect", f"{package}.net:factory", "--json")
    assert [c["size"] for c in json.loads(told.stdout)["communities"]] == [24, 12]


def test_a_network_and_data_of_ones_own_evolve(natsel, package, tmp_path):
    common = ("--epochs", "1", "--no-report", "--sparsity", "0.5", "--json")
    out = tmp_path / "digits"
    model = f"{package}.net:digits"
    told = natsel("evolve", "--out", out, "--dataset", "digits", "--model", model, *common)
    assert (told.exit_code, told.stderr) == (0, "")
    assert json.loads((out / "config.json").read_text())["model"] == model
    assert json.loads(told.stdout)["verification"]["passed"]
    out = tmp_path / "all"
    model, data = f"{package}.net:bare", f"{package}.data:loader"
    told = natsel("evolve", "--out", out, "--dataset", data, "--model", model, *common)
    assert (told.exit_code, told.stderr) == (0, "")
    result = json.loads(told.stdout)
    assert (result["config"]["dataset"], result["task"]["unit"]) == (data, "sample")
    assert [c["size"] for c in result["communities"]] == [24, 12]


WRONG = {
    "nowhere:mine": "ModuleNotFoundError: No module named 'nowhere'",
    "PKG.nowhere:mine": "No module named 'PKG.nowhere'",
    "PKG.laws:deccay": "a name that PKG.laws has (did you mean 'decay'?)",
    "PKG.laws:decay.deeper": "a name that PKG.laws.decay has",
    "PKG.laws:number": "this is of type int",
    "PKG.laws:short": "a function of (mass, fitness, dt, pressure=, competition=, generator=)",
    "PKG.laws:": "expected module:name",
    ":decay": "expected module:name",
    "PKG/laws.py:decay": "expected module:name",
    "PKG.laws:decay:more": "expected module:name",
    ".laws:decay": "expected module:name",
    "PKG.bad:mine": "No module named 'module_that_is_nowhere'",
    "PKG.wrong:mine": "SyntaxError",
    "PKG.ends:mine": "SystemExit",
    "decay": "expected one of ",
}


@pytest.mark.parametrize("law", WRONG)
def test_what_is_wrong_with_a_law_is_one_line_and_nothing_is_written(
    natsel, fast, package, tmp_path, law
):
    given, expected = law.replace("PKG", package), WRONG[law].replace("PKG", package)
    told = natsel("evolve", "--out", tmp_path / "run", *fast, "--dynamics", given)
    assert told.exit_code == 2
    assert told.stderr.startswith(f"natsel: dynamics={given!r} is not allowed: expected ")
    assert expected in told.stderr
    assert told.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("PKG.net:text",), "this one returns a str"),
        (("PKG.net:broken",), "a function that runs (KeyError: 'weights.pt')"),
        (("PKG.net:needs",), "a function of (): missing a required argument: 'path'"),
        (("PKG.net:bare",), "without inputs, data (--data) have to tell them"),
        (("PKG.net:factory", "--data", "PKG.data:unlabelled"), "batches (inputs, labels)"),
        (("PKG.net:factory", "--data", "PKG.data:floats"), "whole-number labels"),
        (("PKG.net:factory", "--data", "PKG.data:nothing"), "data='PKG.data:nothing'"),
        (("PKG.net:factory", "--data", "PKG.data:number"), "a function of ()"),
        (("PKG.net:factory", "--data", "PKG.data:lodaer"), "did you mean 'loader'?"),
        (("PKG.net:digits", "--data", "PKG.data:loader"), "inputs that Sequential from PKG.net"),
        (("PKG.net:factory", "--scorer", "PKG.signals:nothing"), "a name that PKG.signals has"),
        (("PKG.net:factory", "--scorer", "PKG.signals:gradients"), "reads one"),
        (("PKG.net:factory", "--budget", "PKG.budgets:none=1"), "what has gauge()"),
        (("PKG.net:factory", "--budget", "PKG.budgets:Bytes=much"), "module:name=NUMBER"),
        (("PKG.net:factory", "--budget", "PKG.budgets:Bytes=8"), "bytes=8 is not allowed"),
    ],
)
def test_what_is_wrong_with_the_rest_is_one_line_too(
    natsel, package, tmp_path, arguments, expected
):
    given = [word.replace("PKG", package) for word in arguments]
    told = natsel("prune", *given, "--out", tmp_path / "small", "--no-measure")
    assert told.exit_code == 2, told.output
    assert expected.replace("PKG", package) in told.stderr
    assert told.stderr.count("\n") == 1
    assert not (tmp_path / "small").exists()


def test_a_network_that_does_not_fit_the_data_is_told(natsel, package, tmp_path):
    for name, expected in (("narrow", "at least 10 outputs"), ("bare", "runs on digits")):
        told = natsel(
            *("evolve", "--out", tmp_path / "run", "--dataset", "digits"),
            *("--model", f"{package}.net:{name}", "--no-report"),
        )
        assert (told.exit_code, told.stderr.count("\n")) == (2, 1)
        assert expected in told.stderr
    told = natsel(
        *("evolve", "--out", tmp_path / "run", "--hidden", "8", "--model", f"{package}.net:bare")
    )
    assert told.exit_code == 2
    assert told.stderr.startswith("natsel: hidden='8' is not allowed")


def _importable(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path / "work"), *sys.path])


def test_in_python_the_same_strings_are_looked_up(package, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="No module named"):
        find_law(f"{package}.laws:decay")  # the current folder is importable for commands only
    _importable(monkeypatch, tmp_path)
    assert find_law(f"{package}.laws:decay").name == "decay"
    assert find_fitness(f"{package}.signals:weights").name == "weights"
    opened = library.open_model(f"{package}.net:factory")
    assert (opened.kind, [tuple(x.shape) for x in opened.example_inputs]) == ("own", [(2, 10)])
    communities = library.discover(opened.model, opened.example_inputs)
    scores = library.score(communities, f"{package}.signals:weights")
    assert all(
        torch.equal(v, library.score(communities, "magnitude")[n]) for n, v in scores.items()
    )
    evolution = library.Evolution(communities, dynamics=f"{package}.laws:slower")
    assert evolution.dynamic.name == "slower"


def test_the_same_seed_gives_the_same_network_and_leaves_torch_as_it_was(
    package, tmp_path, monkeypatch
):
    _importable(monkeypatch, tmp_path)
    before = torch.get_rng_state()
    first, second, other = (
        library.open_model(f"{package}.net:factory", seed=seed).model.head.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


SPY = "raise RuntimeError('imported')"


def test_nothing_is_imported_that_the_user_did_not_name(natsel, package, tmp_path):
    """No file in the current folder, and no name in a saved folder, makes natsel import it."""
    work = tmp_path / "work"
    for name in ("logistic", "mlp", "datasets", "magnitude"):
        (work / f"{name}.py").write_text(SPY)
    out = tmp_path / "small"
    assert natsel("prune", "mlp", "--out", out, "--no-measure").exit_code == 0
    assert str(work) not in sys.path
    plan = json.loads((out / "plan.json").read_text())
    del plan["sha256"]
    plan["constructor"]["name"] = f"{package}.ends:mine"
    (out / "plan.json").write_text(json.dumps({**plan, "sha256": _checksum(plan)}))
    told = natsel("inspect", out)
    assert told.exit_code == 2
    assert "is not allowed: expected one of" in told.stderr
    with pytest.raises(ValueError, match="expected one of"):
        library.models.rebuild(plan["constructor"])
    assert not [m for m in sys.modules if m.partition(".")[0] == package]


def test_the_installed_command_finds_the_current_folder(package, tmp_path):
    """As ``python -m`` does: the program itself puts its own folder there, not the current one."""
    code = "import sys; sys.path = [p for p in sys.path if p]; from natsel.cli.main import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; main()", "inspect", f"{package}.net:factory", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["communities"]) == 2
