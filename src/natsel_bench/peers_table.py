"""natsel beside other libraries that remove structures: does it work, is it right, how long."""

from __future__ import annotations

import importlib.metadata
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from natsel.common.errors import refuse
from natsel.common.files import write_atomic, write_json
from natsel.common.progress import Progress, silent
from natsel.runs import environment, folder
from natsel.runs.jobs import run_jobs
from natsel_bench.peers.case import Case, load_tool, run_apart
from natsel_bench.peers.networks import LARGE, QUICK, WIDTHS, names
from natsel_bench.peers.tools import choose_tools
from natsel_bench.peers.words import sentences, to_markdown

REPEATS = 3
LARGE_LIMIT = 2.0
"""How many times the limit of a case the large network may take."""

PEERS = ("torch-pruning", "torch-kirigami")


def bench_peers(
    out: Path,
    *,
    tools: Sequence[str] = (),
    quick: bool = False,
    limit: float = 60.0,
    resume: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Let every tool remove half of every structure of every network, and judge what comes out.

    Each case is a process of its own with one thread. A case is judged without any tool's help:
    the smaller network must equal the dense one in which all removed numbers are 0. The folder
    gets ``peers.json``, ``peers.md`` and every case, so that a stopped run can go on.

    Args:
        out: a new folder.
        tools: names of tools; none means all.
        quick: a few networks, and no times on a large one.
        limit: seconds of processor time after which a case is killed.
        resume: go on with a run that was stopped.
        progress: called after every case.

    Returns:
        ``rows`` (one per network and tool), ``times`` on a large network, ``sentences``, and
        where it ran.

    Raises:
        ValueError: if an argument is not allowed.
        MissingExtraError: if a chosen tool is not installed.
    """
    chosen = choose_tools(tuple(tools))
    if not limit > 0:
        refuse("limit", limit, "a number of seconds > 0")
    config = {
        "bench": "peers",
        "tools": list(chosen),
        "quick": quick,
        "limit": limit,
        "versions": _versions(),
        "code": environment.git_state(),
    }
    with folder.claim(out, config, resume):
        for tool in chosen:
            load_tool(tool)
        folder.take(out, config)
        result = compare(
            out / "cases",
            chosen,
            {name: kind for name, kind in names().items() if not quick or name in QUICK},
            limit=limit,
            large=None if quick else LARGE,
            progress=progress,
        )
        write_json(out / "peers.json", result)
        page = "# natsel and its peers\n\n" + to_markdown(result)
        write_atomic(out / "peers.md", page.encode())
    return result


def compare(
    cache: Path,
    tools: Sequence[str],
    networks: dict[str, str],
    *,
    limit: float,
    large: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run and judge every tool on every network.

    Args:
        cache: folder of the cases.
        tools: keys of ``TOOLS``, or "module:class".
        networks: names, each with the list it belongs to.
        limit: seconds for one case.
        large: a network for times, or None.
        progress: called after every case.

    Returns:
        As :func:`bench_peers`.
    """
    cases = [
        Case(tool, network, limit, saved=kind == "architecture")
        for network, kind in networks.items()
        for tool in tools
        if not tool.endswith("width kept") or network in WIDTHS
    ]
    found = run_jobs(run_apart, cases, cache, workers=1, progress=progress, label="bench peers")
    rows = [{**row, "list": networks[row["network"]]} for row in found]
    return {
        "bench": "peers",
        "sentences": sentences(rows),
        "rows": rows,
        "large": large,
        "times": _times(cache, tools, large, limit, progress) if large is not None else [],
        "versions": _versions(),
        "hardware": environment.hardware(),
        "code": environment.git_state(),
    }


def _times(
    cache: Path, tools: Sequence[str], network: str, limit: float, progress: Progress
) -> list[dict[str, Any]]:
    """Time every tool on one network, in turn; one that fails or is too slow is run once."""
    found: dict[str, list[dict[str, Any]]] = {tool: [] for tool in tools}
    for repeat in range(REPEATS):
        alive = [t for t in tools if all("seconds_again" in row for row in found[t])]
        cases = [Case(t, network, LARGE_LIMIT * limit, repeat, judged=False) for t in alive]
        label = f"{network}, round {repeat + 1}"
        for row in run_jobs(run_apart, cases, cache, workers=1, progress=progress, label=label):
            found[row["tool"]].append(row)
    return [_median(tool, rows) for tool, rows in found.items()]


def _median(tool: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ran = all("seconds_again" in row for row in rows)
    last = rows[-1]
    return {
        "tool": tool,
        "outcome": "ran" if ran else last["outcome"],
        "reason": "" if ran else last["reason"],
        "seconds": statistics.median(row["seconds"] for row in rows),
        "busy": statistics.median(row["busy"] for row in rows),
        "seconds_again": statistics.median(r["seconds_again"] for r in rows) if ran else None,
        "share": last.get("share"),
        "num_runs": len(rows),
    }


def _versions() -> dict[str, str]:
    found = dict(environment.versions())
    for name in (*PEERS, "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
