"""A written configuration can be run again; what is wrong with one is told in one line."""

import importlib
import json

import pytest

from natsel.runs.training import Recipe
from natsel_papers.reproduce_evolution import Grid, evolution_config
from natsel_papers.reproduce_plateau import plateau_config

TIMES = (
    "seconds",
    "peak_memory",
    "latency",
    "versions",
    "hardware",
    "git",
    "out",
    "timings",
    "prediction",
)


def without_times(value):
    """Return a result without what another run measures anew."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in (*TIMES, "summary")}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def read(path):
    return json.loads(path.read_text())


def line(result):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("natsel: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("natsel: ").strip()


@pytest.fixture
def run(natsel, fast, tmp_path):
    """The folder of a run with options of all kinds."""
    out = tmp_path / "run"
    arguments = (*fast, "--capacity", "0.5", "--seed", "3", "--no-baselines", "--no-report")
    assert natsel("evolve", "--out", out, *arguments).exit_code == 0
    return out


@pytest.mark.parametrize("file", ["config.json", "result.json"])
def test_a_run_of_its_own_config_gives_the_same_again(natsel, run, tmp_path, file):
    again = tmp_path / "again"
    done = natsel("evolve", "--config", run / file, "--out", again, "--no-report", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert read(again / "config.json") == read(run / "config.json")
    first, second = (without_times(read(f / "result.json")) for f in (run, again))
    assert first == second
    for name in ("masses.safetensors", "model.safetensors"):
        assert (again / name).read_bytes() == (run / name).read_bytes()


def test_a_run_goes_on_from_its_own_config(natsel, run):
    before = read(run / "result.json")
    arguments = ("--config", run / "config.json", "--out", run, "--no-report", "--json")
    assert json.loads(natsel("evolve", *arguments, "--resume").stdout) == before


def test_what_is_given_wins_and_is_said(natsel, run, tmp_path):
    out = tmp_path / "other"
    given = ("--seed", "4", "--set", "rate=0.4", "--set", "floor=1", "--hidden", "8,8")
    done = natsel(
        *("evolve", "--config", run / "config.json", "--out", out, "--no-report"),
        *("--epochs", "1", *given),
    )
    assert done.exit_code == 0
    assert done.stderr.splitlines()[:3] == [
        f"natsel: seed='4' wins over '3' of {run / 'config.json'}",
        f"natsel: rate=0.4 wins over 0.3 of {run / 'config.json'}",
        f"natsel: hidden=8,8 wins over 16,8 of {run / 'config.json'}",
    ]
    config = read(out / "config.json")
    assert config == {
        **read(run / "config.json"),
        **{"seed": 4, "rate": 0.4, "options": {"hidden": [8, 8]}},
    }


@pytest.mark.parametrize(("model", "options"), [("mlp", {"hidden": [16, 8]}), ("cnn", {})])
def test_widths_stay_with_their_network(natsel, run, tmp_path, monkeypatch, model, options):
    asked = []
    module = importlib.import_module("natsel.runs.evolve")
    monkeypatch.setattr(module, "evolve", lambda config, *_, **__: asked.append(config))
    natsel("evolve", "--config", run / "config.json", "--model", model, "--out", tmp_path / "out")
    assert asked[0].as_json()["options"] == {k: tuple(v) for k, v in options.items()}


def test_prune_runs_what_its_result_says(natsel, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    options = ("--sparsity", "0.5", "--scorer", "l1", "--include", "layers.0", "--no-measure")
    assert natsel("prune", "mlp", *options, "--seed", "5", "--out", first).exit_code == 0
    done = natsel("prune", "--config", first / "result.json", "--out", again, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert without_times(read(again / "result.json")) == without_times(read(first / "result.json"))
    assert (again / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_sparsity_wins_over_a_written_budget(natsel, tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"model": "mlp", "budget": "macs=0.5", "measure": false}')
    out = tmp_path / "out"
    done = natsel("prune", "--config", config, "--sparsity", "0.25", "--out", out)
    assert done.exit_code == 0
    assert done.stderr == f"natsel: sparsity=0.25 wins over budget='macs=0.5' of {config}\n"
    assert read(out / "result.json")["config"]["budget"] == "sparsity=0.25"


def test_audit_runs_what_its_result_says(natsel, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    options = ("--scorers", "l1,log-l2,l2", "--sparsity", "0.3,0.6", "--exclude", "layers.2")
    assert natsel("audit", "mlp", *options, "--out", first).exit_code == 0
    done = natsel("audit", "--config", first / "result.json", "--out", again, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert without_times(read(again / "result.json")) == without_times(read(first / "result.json"))


@pytest.mark.parametrize(
    ("command", "content", "told"),
    [
        ("evolve", {"sed": 3}, "='sed' is not allowed: expected one of adaptation, baselines"),
        ("evolve", {"sed": 3}, "(did you mean 'seed'?)"),
        ("evolve", {"seed": "three"}, "seed='three' is not allowed: expected a whole number"),
        ("evolve", {"seed": 1.5}, "seed=1.5 is not allowed: expected a whole number"),
        ("evolve", {"seed": True}, "seed=True is not allowed: expected a whole number"),
        ("evolve", {"seed": [1]}, "seed=[1] is not allowed: expected a whole number"),
        (
            "evolve",
            {"baselines": "maybe"},
            "baselines='maybe' is not allowed: expected true or false",
        ),
        ("evolve", {"dataset": "mnst"}, "dataset='mnst' is not allowed"),
        ("evolve", {"dynamics": "logistik"}, "(did you mean 'logistic'?)"),
        ("evolve", {"sparsities": 0.5}, "sparsities=0.5 is not allowed: expected a list"),
        ("evolve", {"sparsities": [0.9, 0.5]}, "ascending"),
        ("evolve", {"rate": -1}, "rate=-1 is not allowed"),
        ("evolve", {"rate": "fast"}, "rate='fast' is not allowed"),
        ("evolve", {"capacity": 2}, "capacity=2"),
        (
            "evolve",
            {"learning_rate": "0.1"},
            "learning_rate='0.1' is not allowed: expected a number",
        ),
        ("evolve", {"label_smoothing": 0.3}, "label_smoothing=0.3 is not allowed: expected 0.1"),
        ("evolve", {"options": {"depth": 3}}, "options={'depth': 3} is not allowed"),
        ("evolve", {"options": {"hidden": ["x"]}}, "hidden='x' is not allowed"),
        ("evolve", {"kind": "spectrum"}, "one of natsel evolve; this is of 'spectrum'"),
        ("evolve", {"kind": "prune", "config": {}}, "one of natsel evolve; this is of 'prune'"),
        ("prune", {"kind": "evolve", "config": {}}, "one of natsel prune; this is of 'evolve'"),
        ("prune", {"model": "mlp", "budgt": "macs=0.5"}, "(did you mean 'budget'?)"),
        ("prune", {"model": "mlp", "multiple_of": 0}, "multiple_of=0"),
        ("prune", {"model": "mlp", "include": "layers.0"}, "include='layers.0' is not allowed"),
        ("prune", {"budget": "macs=0.5"}, "Missing argument"),
        ("audit", {"model": "mlp"}, "Missing option '--scorers'"),
        ("audit", {"model": "mlp", "scorers": ["l1", "l9"]}, "scorer='l9' is not allowed"),
        ("spectrum", {"model": "mlp", "data": "digits", "kinds": ["neurn"]}, "kinds='neurn'"),
        ("evolve", [], "JSON object"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_as_of_an_option(natsel, tmp_path, command, content, told):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(content))
    said = line(natsel(command, "--config", config, "--out", tmp_path / "out"))
    assert told in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "{", '{"seed": NaN}', '{"seed": 1e999}', "[" * 10**5])
def test_a_damaged_file_is_told(natsel, tmp_path, content):
    config = tmp_path / "config.json"
    config.write_text(content)
    assert "config.json" in line(natsel("evolve", "--config", config, "--out", tmp_path / "out"))


def test_a_missing_file_is_told(natsel, tmp_path):
    told = line(natsel("evolve", "--config", tmp_path / "no.json", "--out", tmp_path / "out"))
    assert "no.json" in told


def written(tmp_path, config, **changed):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, **changed}))
    return path


@pytest.fixture
def asked(monkeypatch):
    """What a reproduction was asked to do, instead of doing it."""
    found = {}

    def note(*arguments, **options):
        found["asked"] = (arguments, options)
        raise ValueError("enough")

    monkeypatch.setattr("natsel_papers.reproduce_plateau.reproduce_plateau", note)
    monkeypatch.setattr("natsel_papers.reproduce_evolution.reproduce_evolution", note)
    return found


def test_the_table_of_evolution_is_asked_as_its_config_says(natsel, tmp_path, asked):
    recipe = Recipe(3, 32, Grid().recipe.learning_rate)
    config = evolution_config(Grid(seeds=4, dataset="digits", recipe=recipe))
    call = ("reproduce", "evolution", "--config", written(tmp_path, config), "--out", tmp_path)
    natsel(*call)
    (grid, _), _ = asked["asked"]
    assert evolution_config(grid) == config
    said = natsel(*call, "--seeds", "2")
    assert "seeds='2' wins over '4'" in said.stderr
    assert asked["asked"][0][0].seeds == 2


def test_the_plateau_is_asked_as_its_config_says(natsel, tmp_path, asked):
    config = plateau_config("smoke", seeds=3, epochs=2)
    path = written(tmp_path, config)
    natsel("reproduce", "plateau", "--config", path, "--out", tmp_path, "--device", "cpu")
    (preset, _), options = asked["asked"]
    for name in ("place", "resume", "progress"):
        del options[name]
    assert plateau_config(preset, **options) == config


@pytest.mark.parametrize(
    ("command", "config", "told"),
    [
        ("evolution", {"sparsities": [0.5]}, "sparsities=[0.5] is not allowed: expected [0."),
        ("evolution", {"recipe": 3}, "recipe=3 is not allowed: expected a mapping"),
        ("evolution", {"reproduce": "plateau"}, "one of natsel reproduce evolution"),
        ("evolution", {"sparsity": 3}, "(did you mean 'sparsities'?)"),
        ("plateau", {"generations": 9}, "generations=9 is not allowed: expected 5, which no"),
        ("plateau", {"kind": "spectrum"}, "one of natsel reproduce plateau"),
        ("plateau", {"preset": "cpi"}, "(did you mean 'cpu'?)"),
    ],
)
def test_what_no_option_of_a_reproduction_can_say_is_refused(
    natsel, tmp_path, asked, command, config, told
):
    path = written(tmp_path, config)
    said = line(natsel("reproduce", command, "--config", path, "--out", tmp_path / "out"))
    assert told in said
    assert not asked
