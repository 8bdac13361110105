"""Language models pruned by one command each: what they are worth before and after, and the cost.

Each row is a command line of natsel that runs in a process of its own, so that its peak memory is
its own, too. Perplexities are on the same held-out windows, with paired intervals.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from natsel.common.errors import choose, refuse
from natsel.common.files import write_atomic, write_json
from natsel.common.json_data import read_object
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.runs import environment, folder
from natsel_bench.language_models import SMALL_GPT2, prepared
from natsel_bench.language_rows import ROWS, Folders
from natsel_bench.texts import content_of

CHARACTERS = 5
"""Characters of a text for each token that is asked for: more than a tokenizer needs."""


def bench_language(
    model: str,
    text: str | Path,
    out: str | Path,
    *,
    only: Sequence[str] = (),
    length: int = 512,
    samples: int = 16,
    tokens: int = 150_000,
    resume: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Prune a language model in several ways and say what each cost.

    The beginning of the text calibrates, its end evaluates, and what lies between trains.

    Args:
        model: folder of the dense model, with its tokenizer; or "small-gpt2", which is trained on
            the middle of the text first, in minutes.
        text: a text file, UTF-8.
        out: folder for the texts, the small models, and one result for each row.
        only: names of rows; by default all.
        length: tokens in a window.
        samples: windows of calibration, and as many of evaluation.
        tokens: that recovery reads.
        resume: go on with what the folder holds.
        progress: called after every row.

    Returns:
        Rows with perplexities before and after, their ratio with its paired interval, seconds and
        peak memory; what could not be run, and why.

    Raises:
        ValueError: if an argument is not allowed, or the text is too short.
    """
    for name in only:
        choose("only", name, ROWS)
    for argument, value in (("length", length), ("samples", samples), ("tokens", tokens)):
        check_whole(argument, value)
    parts = cut_text(Path(text), CHARACTERS * length * samples)
    target = Path(out)
    config = {
        "kind": "bench language",
        "model": model,
        "text": str(text),
        "length": length,
        "samples": samples,
        "tokens": tokens,
    }
    with folder.claim(target, config, resume):
        folder.take(target, config)
        for name, part in parts.items():
            if not (target / name).is_file():
                write_atomic(target / name, part.encode())
        dense = model
        if model == SMALL_GPT2:
            progress(f"language: train {SMALL_GPT2}", 0, len(ROWS))
            dense = str(prepared(target / SMALL_GPT2, parts["training.txt"], length=length))
        folders = Folders(dense, target, length, samples, tokens)
        chosen = [name for name in ROWS if not only or name in only]
        rows: list[dict[str, Any]] = []
        for number, name in enumerate(chosen):
            progress(f"language: {ROWS[name].title}", number, len(chosen))
            kept = target / f"{name}.json"
            if not kept.is_file():
                write_json(kept, _measured(name, folders))
            rows.append(read_object(kept))
        progress("language: done", len(chosen), len(chosen))
        result = {
            "bench": "language",
            "config": config,
            "rows": rows,
            **environment.record(git=True),
        }
        write_json(target / "language.json", result)
        return result


def cut_text(text: Path, size: int) -> dict[str, str]:
    """Return the beginning, the middle and the end of a text, by the names of their files."""
    content = content_of(text)
    if len(content) < 3 * size:
        refuse("text", str(text), f"at least {3 * size:,} characters; it has {len(content):,}")
    return {
        "calibration.txt": content[:size],
        "training.txt": content[size:-size],
        "evaluation.txt": content[-size:],
    }


def _measured(name: str, folders: Folders) -> dict[str, Any]:
    """Run a row in a process of its own; say what it printed, how long it took and its peak."""
    row = ROWS[name]
    told: dict[str, Any] = {
        "name": name,
        "title": row.title,
        "floor": row.floor,
        "aim": row.aim,
        "kind": row.kind,
        "scorer": row.scorer,
        "arguments": row.arguments(folders),
    }
    if row.after and not (folders.out / row.after / "result.json").is_file():
        return told | {"missing": f"it reads what {row.after} writes"}
    module = "natsel_bench.language_peers" if row.tool else "natsel.cli.main"
    more = [] if row.tool else ["--json"]
    found = run_apart([sys.executable, "-m", module, *row.arguments(folders), *more])
    if found.code:
        lines = found.said.strip().splitlines()
        return told | {"missing": lines[-1] if lines else f"exit code {found.code}"}
    return told | {
        "seconds": found.seconds,
        "peak_bytes": found.peak_bytes,
        "quality": json.loads(found.printed)["quality"],
    }


class Ended(NamedTuple):
    """A process that ended.

    Attributes:
        code: its exit code.
        printed: what it wrote to standard output.
        said: what it wrote to standard error.
        seconds: of the clock.
        peak_bytes: its largest resident size; None where the system does not tell.
    """

    code: int
    printed: str
    said: str
    seconds: float
    peak_bytes: int | None


def run_apart(command: Sequence[str]) -> Ended:
    """Run a command in a process of its own.

    Example:
        >>> run_apart([sys.executable, "-c", "print(3)"]).printed
        '3\\n'
    """
    began = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as printed,
        tempfile.TemporaryFile("w+") as said,
        tempfile.NamedTemporaryFile("r") as told,
    ):
        launcher = [sys.executable, "-c", _LAUNCHER, told.name]
        process = subprocess.Popen([*launcher, *command], stdout=printed, stderr=said)  # noqa: S603
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        seconds = time.monotonic() - began
        printed.seek(0)
        said.seek(0)
        peak = int(told.read() or 0) or None
        return Ended(code, printed.read(), said.read(), seconds, peak)


_LAUNCHER = """
import signal, subprocess, sys
child = subprocess.Popen(sys.argv[2:])
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
code = child.wait()
try:
    import resource
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    open(sys.argv[1], "w").write(str(peak * (1 if sys.platform == "darwin" else 1024)))
except ImportError:
    pass
sys.exit(code if code >= 0 else 128 - code)
"""
"""A process begins with the peak of the one that it was split from: so that is a small one."""
