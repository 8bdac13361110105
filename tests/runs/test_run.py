"""The main job on real digits: what it writes agrees with itself and survives being killed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

import natsel
from natsel.common.files import read_json
from natsel.runs import evolve
from natsel.runs.measure import macs, num_correct, num_parameters
from runs.helpers import FAST, comparable, leftovers


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, to be looked at only."""
    from natsel.runs import RunConfig

    config = RunConfig(
        dataset="digits",
        epochs=2,
        learning_rate=0.01,
        sparsities=(0.5, 0.75),
        options={"hidden": [24, 12]},
        ecology=FAST,
    )
    folder = tmp_path_factory.mktemp("finished") / "run"
    return config, folder, evolve(config, folder)


def test_schema(finished):
    config, folder, result = finished
    assert result == read_json(folder / "result.json")
    assert set(result) == {
        *("schema", "kind", "natsel", "config", "versions", "hardware", "git", "seconds"),
        *("evolved", "extracted", "dense", "extinct", "communities", "verification"),
        *("capacity", "history", "table", "task"),
    }
    assert result["task"] == {"predicts": "class", "unit": "image"}
    assert (result["schema"], result["kind"], result["capacity"]) == (1, "evolve", None)
    assert result["config"] == config.as_json() == read_json(folder / "config.json")
    assert result["config"]["rate"] == FAST["rate"]
    for name in ("evolved", "extracted", "dense"):
        measured = result[name]
        assert measured["low"] <= measured["accuracy"] <= measured["high"]
        assert measured["n"] == 360
    assert set(result["extracted"]["latency"]) == {"1", "64"}
    assert "latency" not in result["evolved"]  # its gates cost; the dense network stands for it
    assert [row["epoch"] for row in result["history"]] == [1, 2]
    assert set(result["history"][0]) == {
        *("epoch", "loss", "validation_accuracy", "alive", "pressure"),
    }
    assert set(result["seconds"]) == {"train", "train_dense", "total"}


def test_table(finished):
    _, _, result = finished
    keys = {(r["family"], r["method"], r["sparsity"]) for r in result["table"]}
    assert keys == {
        (family, method, sparsity)
        for family, method in (
            ("dynamic", "logistic"),
            ("control", "random"),
            ("one-shot", "magnitude"),
            ("one-shot", "taylor"),
        )
        for sparsity in (0.5, 0.75)
    }
    assert len(keys) == len(result["table"])
    for row in result["table"]:
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["n"] == 360
        assert ("latency" in row) == ("kept" in row) == (row["family"] == "dynamic")
    for row in (r for r in result["table"] if r["family"] == "dynamic"):
        assert sum(row["kept"].values()) == 36 - round(36 * row["sparsity"])
        first, second = row["kept"].values()
        weights = 64 * first + first * second + second * 10
        assert (row["macs"], row["parameters"]) == (weights, weights + first + second + 10)


def test_what_went_extinct_is_gone(finished):
    _, _, result = finished
    extinct = result["extinct"]
    assert extinct["total"] == 36
    assert 0 < extinct["count"] < 36
    assert extinct["share"] == pytest.approx(extinct["count"] / 36)
    assert extinct["count"] == sum(c["extinct"] for c in result["communities"])
    assert [(c["size"], c["kind"]) for c in result["communities"]] == [
        (24, "neuron"),
        (12, "neuron"),
    ]
    assert all(c["kept"] + c["extinct"] == c["size"] for c in result["communities"])
    assert result["history"][-1]["alive"] == 36 - extinct["count"]
    assert result["verification"]["passed"] is True
    assert result["extracted"]["parameters"] < result["evolved"]["parameters"]
    assert result["extracted"]["accuracy"] == result["evolved"]["accuracy"]


def test_the_saved_model_has_the_stated_figures(finished, digits):
    _, folder, result = finished
    small = natsel.load(folder)
    inputs, labels = digits.test
    assert num_correct(small, inputs, labels) / len(labels) == result["extracted"]["accuracy"]
    assert num_parameters(small) == result["extracted"]["parameters"]
    assert macs(small, inputs) == result["extracted"]["macs"]
    kept = [c["kept"] for c in result["communities"]]
    assert [m.out_features for m in small.modules() if isinstance(m, torch.nn.Linear)] == [
        *kept,
        10,
    ]


def test_masses_agree_with_the_result(finished):
    _, folder, result = finished
    tensors = load_file(folder / "masses.safetensors")
    steps = tensors["steps"]
    assert steps[0] == 0
    assert steps.diff().gt(0).all()
    for community in result["communities"]:
        name, size = community["name"], community["size"]
        mass, alive = tensors[f"mass/{name}"], tensors[f"alive/{name}"]
        assert mass.shape == (len(steps), size)
        assert tensors[f"fitness/{name}"].shape == (size,)
        assert int(alive.sum()) == community["kept"]
        assert ((mass >= 0) & (mass <= 1)).all()
        assert torch.allclose(mass[0], torch.tensor(0.9), atol=5e-4)  # kept as float16
        assert (mass[-1][~alive] == 0).all()
        assert (mass[-1][alive] > 0).all()


def test_nothing_but_the_run_is_left(finished):
    _, folder, _ = finished
    assert sorted(p.name for p in folder.iterdir()) == [
        *("config.json", "masses.safetensors", "model.safetensors", "plan.json", "result.json"),
    ]


def test_a_finished_run_is_read_not_run(finished):
    config, folder, result = finished

    def fail(*_):
        raise AssertionError("it runs again")

    assert evolve(config, folder, resume=True, progress=fail) == result


def test_without_resume_a_run_is_never_touched(finished):
    config, folder, _ = finished
    with pytest.raises(ValueError, match=r"^out=.*--resume"):
        evolve(config, folder)


def test_the_folder_of_another_run_is_refused(finished, config):
    _, folder, _ = finished
    before = {p: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ValueError, match=r"^out=.*another run \(of other capacity, seed\)"):
        evolve(config(seed=1, capacity=0.5), folder, resume=True)
    assert before == {p: p.read_bytes() for p in folder.iterdir()}


def test_a_tuple_of_widths_is_the_same_run_as_a_list(finished, config):
    _, folder, result = finished
    assert evolve(config(options={"hidden": (24, 12)}), folder, resume=True) == result


def test_the_same_seed_gives_the_same_run_whatever_the_global_one_is(finished, tmp_path):
    config, folder, result = finished
    torch.manual_seed(99)
    again = evolve(config, tmp_path / "again")
    assert comparable(again) == comparable(result)
    for name in ("masses.safetensors", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    ("what", "done"),
    [
        ("load digits", 0),
        ("find communities", 1),
        ("evolve (logistic)", 20),
        ("evolve (logistic)", 60),
        ("evolve (logistic)", 78),
        ("cut the evolved network", 1),
        ("train (plain, for comparison)", 60),
        ("cut the plain network", 3),
        ("measure latency", 0),
    ],
)
def test_stopped_anywhere_and_resumed(finished, tmp_path, what, done):
    config, folder, result = finished
    stopped = tmp_path / "run"

    def progress(label, now, total):
        if label == what and now >= done:
            raise Stopped

    with pytest.raises(Stopped):
        evolve(config, stopped, progress=progress)
    assert not (stopped / "result.json").exists()
    assert not list(stopped.glob(".*"))
    resumed = evolve(config, stopped, resume=True)
    assert comparable(resumed) == comparable(result)
    assert resumed == read_json(stopped / "result.json")
    for name in ("masses.safetensors", "model.safetensors", "plan.json"):
        assert (stopped / name).read_bytes() == (folder / name).read_bytes()
    assert leftovers(stopped) == []


SCRIPT = """
import json, sys
from natsel.runs import RunConfig, evolve
def progress(what, done, total):
    print(what, done, flush=True)
evolve(RunConfig(**json.loads(sys.argv[1])), sys.argv[2], progress=progress)
"""


def test_killed_and_resumed(finished, tmp_path):
    config, _, result = finished
    stopped = tmp_path / "run"
    arguments = [sys.executable, "-c", SCRIPT, json.dumps(asdict(config)), str(stopped)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line.startswith("evolve") and int(line.split()[-1]) >= 60:
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert (stopped / "checkpoint-evolved.safetensors").is_file()
    # What a kill in the middle of a write leaves.
    (stopped / ".checkpoint-evolved.safetensors.0123456789ab.tmp").write_bytes(b"half")
    resumed = evolve(config, stopped, resume=True)
    assert comparable(resumed) == comparable(result)
    assert leftovers(stopped) == []


def test_a_folder_with_only_a_half_written_file_is_free(config, tmp_path):
    (tmp_path / ".config.json.0123456789ab.tmp").write_bytes(b"{")
    result = evolve(config(epochs=1, sparsities=(), baselines=False), tmp_path)
    assert leftovers(tmp_path) == []
    assert result["table"] == []
    assert "dense" not in result
    assert "latency" in result["evolved"]


def test_landing_is_told_however_the_capacity_was_set(config, tmp_path):
    run = config(epochs=1, sparsities=(), baselines=False, ecology={**FAST, "capacity": 0.5})
    capacity = evolve(run, tmp_path)["capacity"]
    assert set(capacity) == {"asked", "reached", "landed", "message"}
    assert capacity["asked"] == 0.5


@pytest.mark.parametrize("model", ["cnn", "vit"])
def test_other_networks(config, tmp_path, model):
    options = {"vit": {"dim": 16, "depth": 1, "heads": 2, "patch": 4}}.get(model, {})
    run = config(model=model, epochs=1, options=options, sparsities=(0.5,), baselines=False)
    result = evolve(run, tmp_path)
    assert result["verification"]["passed"] is True
    small = natsel.load(tmp_path)
    assert num_parameters(small) == result["extracted"]["parameters"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "mnisst"}, r"^dataset='mnisst'.*did you mean 'mnist'"),
        ({"dynamics": "logistik"}, r"^dynamics='logistik'.*did you mean 'logistic'"),
        ({"fitness": "tailor"}, r"^fitness='tailor'.*did you mean 'taylor'"),
        ({"model": "mpl"}, r"^model='mpl'.*did you mean 'mlp'"),
        ({"seed": -1}, "^seed=-1"),
        ({"seed": 2**64}, "^seed="),
        ({"epochs": 0}, "^epochs=0"),
        ({"sparsities": (0.5, 1.0)}, r"^sparsity=1\.0"),
        ({"sparsities": (0.5, 0.3)}, r"^sparsities=\[0\.5, 0\.3\].*ascending"),
        ({"sparsities": (0.5, 0.5)}, r"^sparsities=\[0\.5, 0\.5\].*once"),
        ({"capacity": 0.0}, r"^capacity=0\.0"),
        ({"capacity": float("nan")}, "^capacity=nan"),
        ({"ecology": {"presure": 1.0}}, r"^presure=1.*did you mean 'pressure'"),
        ({"ecology": {"rate": -1.0}}, r"^rate=-1\.0"),
    ],
)
def test_config_refuses(config, changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"hidden": [1]}},
        {"options": {"hiden": [8]}},
        {"options": {"hidden": [0]}},
        {"model": "vit", "options": {"heads": 7}},
    ],
)
def test_nothing_is_written_for_a_network_that_cannot_be(config, tmp_path, changes):
    with pytest.raises(ValueError, match="is not allowed"):
        evolve(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_without_communities_says_why(config, tmp_path):
    with pytest.raises(ValueError, match=r"^communities=.*layers\.0: all of it stands or falls"):
        evolve(config(options={"hidden": [1]}), tmp_path / "run")


@pytest.mark.slow
def test_mnist_lands_on_its_capacity(tmp_path):
    if not os.environ.get("NATSEL_DATA"):
        pytest.skip("NATSEL_DATA is not set")
    from natsel.runs import RunConfig

    config = RunConfig(
        dataset="mnist",
        epochs=2,
        capacity=0.5,
        sparsities=(0.5,),
        baselines=False,
        ecology={"adaptation": 2e-3},  # so short a run needs a pressure that rises faster
    )
    result = evolve(config, tmp_path)
    assert result["capacity"]["landed"], result["capacity"]["message"]
    assert result["extracted"]["accuracy"] > 0.95
    assert result["verification"]["passed"] is True
