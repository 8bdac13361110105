"""One writer at a time: held by a process, gone with it, however it goes."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from natsel.common import locks
from natsel.common.locks import LOCK, OWNER, hold, holder

HOLD = """
import sys, time
from pathlib import Path
from natsel.common import locks
if sys.argv[2] == "owner":
    def cannot(handle):
        raise OSError(95, "Operation not supported")
    locks._lock = cannot
with locks.hold(Path(sys.argv[1]), argument="out"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["lock", "owner"])
def way(request, monkeypatch):
    """Both ways to hold a folder: locks of the system, and a file where it has none."""
    if request.param == "owner":

        def cannot(handle):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(locks, "_lock", cannot)
    return request.param


@pytest.fixture
def other(tmp_path, way):
    """Another process that holds the folder until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_named_and_leaves_nothing(tmp_path, other):
    told = f"process {other.pid}"
    assert holder(tmp_path) == told
    with pytest.raises(ValueError, match=f"^out=.*nobody else writes to, but {told} does"):
        hold(tmp_path, argument="out").__enter__()
    other.communicate()
    assert holder(tmp_path) is None
    assert os.listdir(tmp_path) == []


def test_a_killed_process_holds_nothing(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / LOCK).exists()
    assert holder(tmp_path) is None
    with hold(tmp_path, argument="out"):
        assert (tmp_path / LOCK).exists()
    assert os.listdir(tmp_path) == []


def test_one_that_waits_gets_it_when_the_other_ends(tmp_path, other):
    timer = threading.Timer(0.2, other.stdin.close)
    timer.start()
    with hold(tmp_path, argument="folder", wait=60):
        pass
    timer.join()


def test_a_thread_may_hold_it_again_but_no_other_one(tmp_path, way):
    told = []

    def second():
        try:
            with hold(tmp_path, argument="out"):
                told.append("held")
        except ValueError as error:
            told.append(str(error))

    with hold(tmp_path, argument="out"), hold(tmp_path, argument="out"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(told) == 1
    assert f"process {os.getpid()} does" in told[0]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["", "x", "1 elsewhere\n", "99999999999999 here\n"])
def test_an_owner_that_cannot_be_asked_is_believed(tmp_path, monkeypatch, text):
    def cannot(handle):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks, "_lock", cannot)
    (tmp_path / OWNER).write_text(text)
    with pytest.raises(ValueError, match=r"remove .*\.natsel\.owner if that is not so"):
        hold(tmp_path, argument="out").__enter__()
    assert (tmp_path / OWNER).read_text() == text


@pytest.mark.parametrize("text", ["", "\0" * 100, "9" * 1000, "not a process"])
def test_what_a_lock_file_says_does_not_matter(tmp_path, text):
    (tmp_path / LOCK).write_text(text)
    assert holder(tmp_path) is None
    with hold(tmp_path, argument="out"):
        pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic"):
        hold(tmp_path, argument="out").__enter__()
    assert (tmp_path / "mine").read_text() == "mine"


def test_of_many_processes_exactly_one_is_in_at_a_time(tmp_path):
    code = """
import os, sys, time
from pathlib import Path
from natsel.common.locks import hold
folder = Path(sys.argv[1])
for _ in range(20):
    with hold(folder, argument="out", wait=60):
        handle = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)
        os.close(handle)
        os.unlink(folder / "inside")
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    assert [(p.communicate()[1], p.returncode) for p in processes] == [(b"", 0)] * 4
    assert os.listdir(tmp_path) == []
