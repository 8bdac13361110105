"""The command line in two processes of torchrun: one folder, one voice, the same outcome."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from natsel.common.tensorfiles import read_tensors
from natsel.runs.torchrun import ALONE, Processes, refuse_several

EVOLVE = ("evolve", "--dataset", "digits", "--epochs", "1", "--sparsity", "0.5", "--no-report")
PRUNE = ("--data", "digits", "--scorer", "taylor", "--sparsity", "0.5", "--no-measure", "--json")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(*arguments, several):
    start = TORCHRUN if several else ()
    command = [sys.executable, *start, "-m", "natsel", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path):
    masses = []
    for several in (False, True):
        out = tmp_path / f"run {several}"
        ended = run(*EVOLVE, "--out", out, "--json", several=several)
        assert ended.returncode == 0, ended.stderr
        assert len(ended.stdout.splitlines()) == 1
        assert json.loads(ended.stdout)["kind"] == "evolve"
        masses.append(read_tensors(out / "masses.safetensors"))
    for name, value in masses[0].items():
        torch.testing.assert_close(masses[1][name], value, rtol=1e-3, atol=1e-3)
    plans = []
    for several in (False, True):
        out = tmp_path / f"small {several}"
        ended = run("prune", tmp_path / "run False", *PRUNE, "--out", out, several=several)
        assert ended.returncode == 0, ended.stderr
        assert len(ended.stdout.splitlines()) == 1
        plans.append(json.loads((out / "plan.json").read_text())["survivors"])
    assert plans[0] == plans[1]


def test_a_batch_is_shared_out_by_the_labels_that_count():
    x, y = torch.arange(5), torch.tensor([1, -100, 0, 2, -100])
    parts = [Processes(rank, 2).share(x, y) for rank in range(2)]
    assert [part[0].tolist() for part in parts] == [[0, 2, 4], [1, 3]]
    assert [share for *_, share in parts] == pytest.approx([2 / 3, 1 / 3])
    assert ALONE.share(x, y)[2] == 1.0
    assert Processes(1, 2).share(x[:1], y[:1])[2] == 0.0


def test_what_runs_in_one_process_is_refused_by_name(monkeypatch):
    refuse_several("--weights")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"--nproc-per-node=2 .* 1 for --weights"):
        refuse_several("--weights")
