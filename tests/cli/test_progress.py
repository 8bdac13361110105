"""On a terminal, what takes long shows that it moves; anywhere else there is not a byte of it."""

import os
import re
import subprocess
import sys

import pytest

from natsel.cli.console import Voice, parse_numbers, parse_settings, parse_sizes

pty = pytest.importorskip("pty")

CODE = """
import sys
import natsel.cli.console as console
console.SHOW_AFTER = 0.0
from natsel.cli.main import main
sys.argv[0] = "natsel"
main()
"""


def on_a_terminal(*arguments):
    """Run natsel with standard error on a pseudo-terminal; return (exit code, stdout, stderr)."""
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=slave,
        env=environment,
    ) as process:
        os.close(slave)
        drawn = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # how Linux tells that the other side is closed
                break
            if not part:
                break
            drawn += part
        said = process.stdout.read()
    os.close(master)
    return process.returncode, said.decode(), drawn.decode()


def test_training_shows_a_moving_bar(tmp_path, fast):
    arguments = (*fast, "--epochs", "8", "--no-report", "--no-baselines")
    code, said, drawn = on_a_terminal("evolve", "--out", tmp_path / "run", *arguments)
    assert code == 0
    steps = [int(n) for n in re.findall(r"evolve \(logistic\).*?(\d+)/312", drawn)]
    assert len(set(steps)) >= 3
    assert steps == sorted(steps)
    assert "populations went extinct" in said
    assert "\x1b" not in said


def test_what_has_no_steps_pulses_until_it_is_done(monkeypatch):
    import io

    from natsel.cli import console

    stream = io.StringIO()
    real = console.Console
    monkeypatch.setattr(
        console, "Console", lambda **_: real(file=stream, force_terminal=True, width=100)
    )
    monkeypatch.setattr(console, "SHOW_AFTER", 0.0)
    with Voice().progress() as progress:
        progress("load", 0, 1)
        progress("load", 1, 1)
    assert "load" in stream.getvalue()
    assert "1/1" in stream.getvalue()


def test_what_is_quick_shows_nothing(monkeypatch):
    import io

    from natsel.cli import console

    stream = io.StringIO()
    real = console.Console
    monkeypatch.setattr(
        console, "Console", lambda **_: real(file=stream, force_terminal=True, width=100)
    )
    with Voice().progress() as progress:
        for done in range(11):
            progress("train", done, 10)
    assert "train" not in stream.getvalue()


@pytest.mark.parametrize("voice", [Voice(), Voice(quiet=True), Voice(as_json=True)])
def test_no_terminal_no_bar(capsys, voice):
    with voice.progress() as progress:
        progress("train", 0, 10)
        progress("train", 10, 10)
    assert capsys.readouterr() == ("", "")


def test_options_that_hold_several_values():
    assert parse_numbers("sparsity", "0.5, 0.9") == (0.5, 0.9)
    assert parse_numbers("sparsity", " ") == ()
    assert parse_sizes("hidden", "512, 256") == (512, 256)
    assert parse_settings(["rate = 1e-2", "patience=3", "pressure=-1"]) == {
        "rate": 0.01,
        "patience": 3,
        "pressure": -1,
    }
