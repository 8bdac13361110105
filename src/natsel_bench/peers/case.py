"""One tool on one network, in a process of its own that can hang or crash alone."""

from __future__ import annotations

import copy
import importlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from natsel.common.files import read_json, write_json
from natsel_bench.peers.networks import has_reference, hints, make
from natsel_bench.peers.reference import logits
from natsel_bench.peers.tools import TOOLS, Made, Refused, Tool
from natsel_bench.peers.verdict import Verdict, first_line, judge

WALL = 4.0
"""How many times its limit a case may take on the clock: on a busy machine, or asleep."""


@dataclass(frozen=True)
class Case:
    """One tool on one network.

    Attributes:
        tool: a key of ``TOOLS``, or "module:class".
        network: a name that ``networks.make`` knows.
        limit: seconds of processor time, without imports, after which the process is killed.
        repeat: which of several equal runs this is.
        judged: look at what was made, not only at the time.
        saved: save and load it, too.
    """

    tool: str
    network: str
    limit: float
    repeat: int = 0
    judged: bool = True
    saved: bool = False

    @property
    def label(self) -> str:
        """What to call it in messages and file names."""
        text = f"{self.tool} {self.network}"
        return "".join(c if c.isalnum() or c in " -" else "" for c in text)


def load_tool(name: str) -> Tool:
    """Import a tool and make it ready."""
    module, _, attribute = TOOLS.get(name, name).partition(":")
    tool: Tool = getattr(importlib.import_module(module), attribute)()
    tool.prepare()
    return tool


def run_here(case: Case) -> dict[str, Any]:
    """Run a case in this process.

    Returns:
        ``outcome``, ``reason``, ``difference``, ``share`` of parameters removed, ``seconds`` on
        the clock and ``busy`` seconds of the processor for the first run, ``seconds_again`` for
        one more in the same process where it is only timed, ``left_whole`` and ``reloads``,
        whether what was saved loads without running pickled code.
    """
    tool = load_tool(case.tool)
    dense, inputs = make(case.network)
    model = copy.deepcopy(dense)
    start, busy = time.perf_counter(), time.process_time()
    try:
        made = tool.prune(model, inputs, lambda: hints(case.network, model))
        verdict = None
    except Refused as refusal:
        made, verdict = None, Verdict("refused", " ".join(str(refusal).split()))
    except Exception as error:  # noqa: BLE001 - how a tool fails is what is recorded
        made, verdict = None, Verdict("error", first_line(error))
    result: dict[str, Any] = {
        "seconds": time.perf_counter() - start,
        "busy": time.process_time() - busy,
    }
    if made is not None and verdict is None:
        before, after = (sum(p.numel() for p in m.parameters()) for m in (dense, made.small))
        result["share"] = 1 - after / before
        result["left_whole"] = list(made.left_whole)
        known = has_reference(case.network)
        if case.judged:
            verdict = judge(dense, made.small.eval(), inputs, has_reference=known)
            if verdict.outcome == "nothing" and made.left_whole:
                verdict = Verdict("refused", "; ".join(made.left_whole))
        else:
            verdict = Verdict("nothing" if after == before else "no reference", "not judged")
    assert verdict is not None
    if (
        made is not None
        and case.saved
        and verdict.outcome in ("exact", "different", "no reference")
    ):
        result["reloads"] = _reloads(tool, made, case.network)
    if made is not None and not case.judged:
        result["seconds_again"] = _again(tool, case.network)
    return asdict(verdict) | result


def _again(tool: Tool, network: str) -> float:
    model, inputs = make(network)
    start = time.perf_counter()
    tool.prune(model, inputs, lambda: hints(network, model))
    return time.perf_counter() - start


def _reloads(tool: Tool, made: Made, network: str) -> bool:
    """Tell whether saving and loading works where pickled code may not run."""
    dense, inputs = make(network)
    expected = logits(made.small, inputs)
    # torch then refuses every file that needs more than tensors and plain values.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with tempfile.TemporaryDirectory() as folder:
            loaded = tool.reload(made.small, dense, Path(folder))
        return torch.equal(logits(loaded, inputs), expected)
    except Exception:  # noqa: BLE001 - however it fails, it does not load
        return False
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]


def run_apart(case: Case) -> dict[str, Any]:
    """Run a case in a new process with one thread, and kill it after its limit.

    Returns:
        What :func:`run_here` returns, with the case itself; "time-out" or "error" where the
        process was killed or died.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", __name__, json.dumps(asdict(case)), str(out)]
        paths = os.pathsep.join(p for p in sys.path if p)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        try:
            done = subprocess.run(  # noqa: S603 - our own module
                command, capture_output=True, text=True, timeout=WALL * case.limit, env=environment
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = -signal.SIGXCPU
        if code == -signal.SIGXCPU:
            verdict = Verdict("time-out", f"killed after {case.limit:g} s")
            return asdict(case) | asdict(verdict) | {"seconds": case.limit, "busy": case.limit}
        if out.is_file():
            found: dict[str, Any] = read_json(out)
            return asdict(case) | found
    said = done.stderr.strip().splitlines()
    reason = f"the process ended with {code}" + (f": {said[-1][:200]}" if said else "")
    return asdict(case) | asdict(Verdict("error", reason)) | {"seconds": 0.0, "busy": 0.0}


def main() -> None:
    """Run the case of the first argument, and write its result where the second says."""
    torch.set_num_threads(1)
    case = Case(**json.loads(sys.argv[1]))
    load_tool(case.tool)
    last = math.ceil(time.process_time() + case.limit)
    resource.setrlimit(resource.RLIMIT_CPU, (last, resource.RLIM_INFINITY))
    write_json(sys.argv[2], run_here(case))


if __name__ == "__main__":
    main()
