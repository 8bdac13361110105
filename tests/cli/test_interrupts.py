"""Ctrl-C at any moment: one line, exit code 130, nothing on standard output, nothing half done."""

import json
import os
import signal
import subprocess
import sys

import pytest

CODE = """
import os, signal, sys

class Interrupt:
    done = False
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["AT"] and not Interrupt.done:
            Interrupt.done = True
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # as a shell's job control may do

sys.argv[0] = "natsel"
from natsel.cli.main import main
sys.meta_path.insert(0, Interrupt())
main()
"""


@pytest.fixture(autouse=True)
def _interrupts_arrive():
    """What a shell starts in the background ignores interrupts, and so does what that starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(at, *arguments):
    return subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"AT": at},
    )


@pytest.mark.parametrize(
    ("at", "mode"),
    [
        *(("natsel.cli.app", "--json"), ("typer", "--quiet"), ("torch", "--json")),
        *(("natsel.runs.evolve", "--quiet"),),
    ],
)
def test_while_it_starts(tmp_path, at, mode):
    done = interrupted(at, "evolve", "--dataset", "digits", "--out", tmp_path / "run", mode)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "natsel: stopped\n")
    assert os.listdir(tmp_path) == []


def test_in_the_middle_of_the_work(tmp_path, fast):
    done = interrupted(
        "sklearn.datasets", "evolve", "--out", tmp_path / "run", *fast, "--no-report", "--json"
    )
    more = "; the run goes on with --resume" if (tmp_path / "run").exists() else ""
    told = f"natsel: stopped{more}\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, "", told)
    assert os.listdir(tmp_path) in ([], ["run"], ["cache"])
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("command", [("inspect", "mlp"), ("prune", "mlp", "--out", "OUT")])
def test_a_command_that_cannot_go_on_does_not_say_so(tmp_path, command):
    command = [str(tmp_path / "small") if c == "OUT" else c for c in command]
    done = interrupted("torch", *command)
    assert (done.returncode, done.stderr) == (130, "natsel: stopped\n")
    assert os.listdir(tmp_path) == []


LOST = """
import gc, os, signal, sys, time

class Last:
    def __del__(self):  # where Python cannot raise, it only prints
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10): pass

from natsel.cli import interrupts
from natsel.common.interrupts import clearing_up
interrupts.listen()
with clearing_up():
    try:
        Last()
        time.sleep(30)
    except KeyboardInterrupt:
        print("raised")
"""


def test_one_that_python_cannot_raise_is_not_lost():
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "raised\n", "")


def test_whoever_ignores_interrupts_goes_on(tmp_path):
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + CODE
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", "mlp", "--json"],
        capture_output=True,
        text=True,
        env=os.environ | {"AT": "torch"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["num_populations"] == 768


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [
        *((("--version",), ""), (("--version",), "1"), (("--help",), "1")),
        *((("inspect", "mlp", "--json"), ""),),
    ],
)
def test_a_full_standard_output(command, unbuffered):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "natsel.cli.main", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    told = "natsel: standard output is not written: no space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)
