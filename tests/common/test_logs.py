"""What long computations tell goes to the logger of natsel, at levels; nobody hears it unasked."""

import logging
import subprocess
import sys

import torch
from torch import nn

import natsel
from natsel.runs.evolve import RunConfig, evolve

ECOLOGY = {"rate": 0.3, "horizon": 5, "patience": 2, "pressure": 1.5}
CONFIG = RunConfig(
    dataset="digits",
    epochs=2,
    learning_rate=0.01,
    sparsities=(0.5,),
    baselines=False,
    options={"hidden": (16, 8)},
    ecology=ECOLOGY,
)


def model():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def of(caplog, name):
    return [(r.levelno, r.getMessage()) for r in caplog.records if r.name == name]


def test_the_library_installs_no_handler_that_says_anything():
    code = (
        "import logging, torch, natsel\n"
        "from torch import nn\n"
        "m = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))\n"
        "natsel.discover(m, torch.zeros(1, 4))\n"
        "logging.getLogger('natsel.any').warning('heard')\n"
        "natsel = logging.getLogger('natsel')\n"
        "print([type(h).__name__ for h in natsel.handlers], natsel.level, natsel.propagate)\n"
        "print(len(logging.getLogger().handlers))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['NullHandler'] 0 True", "0"]
    assert done.stderr == ""


def test_discovery_tells_what_it_found(caplog):
    caplog.set_level(logging.DEBUG, "natsel")
    natsel.discover(model(), torch.zeros(1, 4))
    assert of(caplog, "natsel.communities.discover") == [
        (logging.INFO, "found in Sequential: Communities(0: 8 neurons)"),
        (logging.DEBUG, "left whole: 2: it is an output of the model"),
    ]


def test_extraction_tells_what_it_did(caplog):
    communities = natsel.discover(model(), torch.zeros(1, 4))
    caplog.set_level(logging.INFO, "natsel")
    natsel.extract(communities.model, {"0": torch.arange(8) < 3}, communities=communities)
    natsel.extract(
        communities.model, {"0": torch.arange(8) < 2}, communities=communities, verify=False
    )
    assert of(caplog, "natsel.extraction.extract") == [
        (logging.INFO, "extracted Survivors(0: 3/8), verified"),
        (logging.INFO, "extracted Survivors(0: 2/8)"),
    ]


def test_a_run_tells_its_epochs_and_its_outcome(caplog, tmp_path):
    caplog.set_level(logging.INFO, "natsel")
    result = evolve(CONFIG, tmp_path / "run")
    (first, told), (_, second) = of(caplog, "natsel.runs.training")
    row = result["history"][0]
    assert first == logging.INFO
    assert told == (
        f"evolve (logistic): epoch 1 of 2, loss {row['loss']:.4f}, validation accuracy "
        f"{row['validation_accuracy']:.2%}, {row['alive']} populations alive, pressure 1.5"
    )
    assert "epoch 2 of 2" in second
    outcome = [message for _, message in of(caplog, "natsel.runs.evolve")]
    assert outcome[0].startswith("Evolution(logistic law, taylor fitness; step 78: ")
    assert outcome[1].startswith("Verification(passed: ")


def test_what_speaks_against_a_landing_is_a_warning(caplog, tmp_path):
    caplog.set_level(logging.WARNING, "natsel")
    heard = []
    hopeless = {**ECOLOGY, "rate": 1e-6, "pressure": 0.1, "adaptation": 0.0}
    config = RunConfig(
        **{**vars(CONFIG), "epochs": 1, "capacity": 0.2, "ecology": hopeless, "sparsities": ()}
    )
    evolve(config, tmp_path / "run", warn=heard.append)
    assert of(caplog, "natsel.runs.evolve") == [(logging.WARNING, heard[0])]


def test_results_do_not_depend_on_who_listens(caplog, tmp_path):
    for name, level in (("loud", logging.DEBUG), ("silent", logging.CRITICAL)):
        caplog.set_level(level, "natsel")
        evolve(CONFIG, tmp_path / name)
    masses = [(tmp_path / name / "masses.safetensors").read_bytes() for name in ("loud", "silent")]
    assert masses[0] == masses[1]
