"""Where a number came from: versions, hardware, the state of the code."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "numpy", "scipy", "safetensors")


def record(*, git: bool = False) -> dict[str, Any]:
    """Return what every result is written with: "versions", "hardware" and, where asked, "git"."""
    found: dict[str, Any] = {"versions": versions(), "hardware": hardware()}
    return found | {"git": git_state()} if git else found


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python, natsel and the libraries that compute."""
    import natsel

    found = {"python": platform.python_version(), "natsel": natsel.__version__}
    for name in LIBRARIES:
        found[name] = importlib.metadata.version(name)
    return found


@cache
def hardware() -> dict[str, Any]:
    """Return what the numbers were made on."""
    info: dict[str, Any] = {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        info["accelerator"] = torch.cuda.get_device_name(0)
    return info


@cache
def git_state() -> dict[str, Any] | None:
    """Return the commit of natsel's own source and whether it was changed; None outside git."""
    source = Path(__file__).resolve()
    folder = source.parent
    try:
        # Installed below somebody else's repository, natsel is not in it: that commit says nothing.
        _git(folder, "ls-files", "--error-unmatch", source.name)
        commit = _git(folder, "rev-parse", "HEAD")
        dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
