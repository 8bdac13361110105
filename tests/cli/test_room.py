"""No space, no permission, somebody else: one line, before the work where it can be known."""

import errno
import importlib
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from natsel.common import locks
from natsel.common.files import read_json

resource = pytest.importorskip("resource")

COMMANDS = {
    "evolve": ("evolve", "--dataset", "digits"),
    "prune": ("prune", "mlp"),
    "audit": ("audit", "mlp", "--scorers", "l1,l2"),
    "spectrum": ("spectrum", "mlp", "--data", "digits"),
    "evolution": ("reproduce", "evolution", "--dataset", "digits"),
    "plateau": ("reproduce", "plateau", "--preset", "smoke"),
    "peers": ("bench", "peers", "--tool", "natsel", "--quick"),
    "all": ("bench", "all", "--quick"),
}


BEGINNINGS = {
    "natsel.runs.evolve": ("load_splits",),
    "natsel.runs.prune": ("open_material",),
    "natsel.runs.audit_model": ("open_material",),
    "natsel_papers.spectrum": ("open_for",),
    "natsel_papers.reproduce_evolution": ("load_splits",),
    "natsel_papers.reproduce_plateau": ("load_splits",),
    "natsel_bench.peers_table": ("load_tool",),
    "natsel_bench.all_parts": ("_run",),
}


@pytest.fixture
def no_work(monkeypatch):
    """Whatever a command would begin with is a mistake here."""

    def fail(*_, **__):
        raise AssertionError("it works")

    for module, names in BEGINNINGS.items():
        for name in names:
            monkeypatch.setattr(importlib.import_module(module), name, fail)


def told(result, code):
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("natsel: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def failing(monkeypatch, number, name=locks.LOCK):
    """Let the system refuse to make files of one name."""
    real = os.open

    def opened(path, flags, *rest, **more):
        if Path(os.fsdecode(path)).name == name and flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), os.fsdecode(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", opened)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    natsel, no_work, monkeypatch, tmp_path, command, there
):
    out = tmp_path / "out"
    if there:
        out.mkdir()
    failing(monkeypatch, errno.EROFS)
    line = told(natsel(*COMMANDS[command], "--out", out), 2)
    assert f"out='{out}'" in line
    assert "a folder that can be written (Read-only file system)" in line
    assert os.listdir(tmp_path) == (["out"] if there else [])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_on_a_full_disk_is_no_wrong_input(natsel, no_work, monkeypatch, tmp_path, command):
    failing(monkeypatch, errno.ENOSPC)
    line = told(natsel(*COMMANDS[command], "--out", tmp_path / "out"), 1)
    assert line == f"natsel: {tmp_path / 'out'} is not written: no space left on the device\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_in_use_is_refused_before_the_work(natsel, no_work, tmp_path, command):
    out = tmp_path / "out"
    out.mkdir()
    code = (
        "import sys; from pathlib import Path; from natsel.common.locks import hold\n"
        "with hold(Path(sys.argv[1]), argument='out'): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        line = told(natsel(*COMMANDS[command], "--out", out), 2)
        assert f"nobody else writes to, but process {other.pid} does" in line
        other.stdin.close()
    assert os.listdir(out) == []


@contextmanager
def room_for(limit):
    """Let no file become larger than a limit for a while, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_run_that_met_a_full_disk_goes_on(natsel, fast, tmp_path):
    out = tmp_path / "run"
    arguments = ("evolve", "--out", out, *fast, "--no-report", "--no-baselines")
    with room_for(2000):
        line = told(natsel(*arguments), 1)
    assert line.startswith(f"natsel: {out / 'checkpoint-evolved.safetensors'} is not written")
    assert "no space left" in line
    assert os.listdir(out) == ["config.json"]
    assert natsel(*arguments, "--resume").exit_code == 0
    assert read_json(out / "result.json")["kind"] == "evolve"


def test_prune_that_met_a_full_disk_leaves_what_was_there(natsel, tmp_path):
    out = tmp_path / "small"
    arguments = ("prune", "mlp", "--no-measure", "--quiet", "--out", out)
    with room_for(100_000):
        line = told(natsel(*arguments), 1)
    assert line.startswith(f"natsel: {out / 'model.safetensors'} is not written: no space")
    assert not out.exists()
    assert natsel(*arguments).exit_code == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with room_for(100_000):
        assert natsel(*arguments, "--sparsity", "0.2").exit_code == 1
    assert before == {p.name: p.read_bytes() for p in out.iterdir()}


def test_prune_clears_up_after_one_that_was_killed(natsel, tmp_path):
    strays = (
        ".result.json.0123456789ab.tmp",
        ".model.safetensors.0123456789ab.pending",
        locks.LOCK,
    )
    for name in strays:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".mine.tmp").write_bytes(b"mine")
    assert natsel("prune", "mlp", "--no-measure", "--quiet", "--out", tmp_path).exit_code == 0
    names = [".mine.tmp", "README.md", "model.safetensors", "plan.json", "result.json"]
    assert sorted(os.listdir(tmp_path)) == names


@pytest.mark.parametrize("content", ["[]", "3", '{"kind": "evolve"}', "{", "[" * 10**5])
def test_prune_does_not_write_over_another_result(natsel, no_work, tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    assert "result.json" in told(natsel("prune", "mlp", "--out", tmp_path), 2)
    assert (tmp_path / "result.json").read_text() == content
    assert os.listdir(tmp_path) == ["result.json"]


def test_prune_refuses_another_model_before_the_work(natsel, no_work, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    line = told(natsel("prune", "mlp", "--out", tmp_path), 2)
    assert "a folder whose model.safetensors was saved by natsel" in line
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"


def test_damaged_masses_are_told_in_one_line(natsel, fast, tmp_path):
    arguments = ("evolve", "--out", tmp_path, *fast, "--no-baselines", "--quiet")
    assert natsel(*arguments, "--no-report").exit_code == 0
    for content in (b"", b"abc", b"\xff" * 100, b"\x10" + b"\0" * 7 + b"[" * 16):
        (tmp_path / "masses.safetensors").write_bytes(content)
        line = told(natsel(*arguments, "--resume"), 2)
        assert "masses.safetensors is not" in line
