"""Help with examples that parse, lists of names, completion: none of it waits for torch."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import typer

from natsel.cli.main import app
from natsel.dynamics import DYNAMICS
from natsel.fitness import FITNESS
from natsel.models import MODELS

ROOT = typer.main.get_command(app)


def commands(command=ROOT, words=()):
    """Yield every command with the words that call it, groups last."""
    for name, found in getattr(command, "commands", {}).items():
        yield from commands(found, (*words, name))
    if not hasattr(command, "commands"):
        yield words, command


ALL = dict(commands())


def example_lines(command):
    return re.findall(r"^\$ (natsel .*)$", command.epilog or "", re.MULTILINE)


def parse(line):
    """Let the command line parse arguments, without running anything."""
    command, words = ROOT, shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command.make_context("natsel", words)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_shows_examples_of_itself_that_parse(natsel, words):
    lines = example_lines(ALL[words])
    assert any(line.split()[1 : len(words) + 1] == list(words) for line in lines)
    for line in lines:
        assert len(line) <= 74  # a terminal of 80 columns does not break it
        if "--config" not in line:  # which reads the file
            parse(line)
        else:
            known = {o for p in ALL[words].params for o in (*p.opts, *p.secondary_opts)}
            assert {w for w in line.split() if w.startswith("--")} <= known
    shown = natsel(*words, "--help")
    assert all(f"$ {line}" in shown.stdout for line in lines)


@pytest.mark.parametrize("words", [(), ("bench",), *ALL], ids=" ".join)
def test_h_is_help(natsel, words):
    short, long = natsel(*words, "-h"), natsel(*words, "--help")
    assert (short.exit_code, short.stderr) == (0, "")
    assert short.stdout == long.stdout
    assert "Usage:" in short.stdout


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("laws", DYNAMICS),
        ("fitnesses", FITNESS),
        ("scorers", (*FITNESS, "V1a", "A5", "adaptive")),
        ("features", ("bump", "sine-2")),
        ("budgets", ("sparsity=SHARE", "parameters=SHARE", "macs=SHARE", "latency=SHARE")),
        ("data", ("digits", "mnist", "cifar10", "tinyshakespeare")),
        ("models", (*MODELS, "a folder", "hf:NAME")),
    ],
)
def test_a_list_names_each_and_says_what_it_is(natsel, what, names):
    told = natsel("list", what, "--json")
    assert (told.exit_code, told.stderr) == (0, "")
    found = json.loads(told.stdout)
    assert list(found) == [what]
    assert set(names) <= set(found[what])
    for name, line in found[what].items():
        assert re.fullmatch(r"\S.*\.", line), (name, line)
        assert "``" not in line
        assert "\n" not in line
    shown = natsel("list", what).stdout
    assert all(name in shown for name in names)


def test_a_list_without_a_word_holds_everything(natsel):
    found = json.loads(natsel("list", "--json").stdout)
    assert list(found) == [
        *("laws", "fitnesses", "scorers", "features", "budgets", "data", "models"),
    ]


@pytest.mark.parametrize(("word", "same"), [("dynamics", "laws"), ("dataset", "data")])
def test_the_words_of_the_options_will_do(natsel, word, same):
    assert natsel("list", word).stdout == natsel("list", same).stdout


def test_another_word_is_refused(natsel):
    told = natsel("list", "scorer5")
    assert (told.exit_code, told.stdout) == (2, "")
    assert "expected one of laws, fitnesses, scorers" in told.stderr
    assert told.stderr.endswith("(did you mean 'scorers'?)\n")


def test_a_law_of_ones_own_is_listed(natsel, monkeypatch):
    def decay(mass, fitness, dt, **_):
        """Let every mass fade."""
        return mass / (1 + dt)

    monkeypatch.setitem(DYNAMICS, "decay", DYNAMICS["logistic"]._replace(name="decay", step=decay))
    assert json.loads(natsel("list", "laws", "--json").stdout)["laws"]["decay"] == (
        "Let every mass fade."
    )


CODE = """
import atexit, sys
def tell():
    heavy = {"torch", "numpy", "scipy", "transformers", "plotly"} & set(sys.modules)
    sys.stderr.write(f"heavy {sorted(heavy)}")
atexit.register(tell)
sys.argv[0] = "natsel"
from natsel.cli.main import main
main()
"""


def alone(*arguments, **environment):
    """Run natsel in a process of its own that tells which heavy libraries it imported."""
    return subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    "arguments", [("--help",), ("prune", "-h"), ("reproduce", "plateau", "-h")]
)
def test_help_does_not_wait_for_torch(arguments):
    done = alone(*arguments)
    assert (done.returncode, done.stderr) == (0, "heavy []")
    assert "Usage:" in done.stdout


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("natsel ev", ["evolve", "evaluate"]),
        ("natsel reproduce ", ["evolution", "plateau"]),
        ("natsel prune --bud", ["--budget"]),
    ],
)
def test_completion_does_not_wait_for_torch(typed, found):
    words = str(len(typed.split(" ")) - 1)
    asked = {"_NATSEL_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": words}
    done = alone(**asked)
    assert (done.returncode, done.stderr) == (0, "heavy []")
    assert done.stdout.split() == found


def test_completion_can_be_installed(natsel):
    options = natsel("--help").stdout
    assert "--install-completion" in options
    assert "--show-completion" in options
    script = alone(_NATSEL_COMPLETE="source_bash")
    assert script.returncode == 0
    assert "complete -o default -F _natsel_completion natsel" in script.stdout
