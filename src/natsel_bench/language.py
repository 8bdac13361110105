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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from natsel.common.errors import choose, refuse
from natsel.common.files import write_atomic, write_json
from natsel.common.json_data import read_object
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.runs import environment, folder

CHARACTERS = 5
"""Characters of a text for each token that is asked for: more than a tokenizer needs."""
MLP = ("--include", "*mlp*")


@dataclass(frozen=True)
class Folders:
    """What the commands read and write.

    Attributes:
        model: the dense model.
        out: of the run.
        length: tokens in a window.
        samples: windows of calibration, and of evaluation.
        tokens: that recovery reads.
    """

    model: str
    out: Path
    length: int
    samples: int
    tokens: int

    def texts(self) -> list[str]:
        """Return the options that name the texts."""
        return [
            *("--data", str(self.out / "calibration.txt")),
            *("--held-out", str(self.out / "evaluation.txt")),
            *("--length", str(self.length), "--samples", str(self.samples)),
        ]

    def prune(self, name: str, *options: str) -> list[str]:
        """Return the command that prunes into a folder of the run."""
        given = [*options, *self.texts(), "--no-measure"]
        return ["prune", self.model, *given, "--out", str(self.out / name)]

    def recover(self, small: str, name: str) -> list[str]:
        """Return the command that recovers what a row pruned."""
        return [
            *("recover", str(self.out / small), "--teacher", self.model),
            *("--data", str(self.out / "training.txt")),
            *("--held-out", str(self.out / "evaluation.txt")),
            *("--samples", str(self.samples), "--length", str(self.length)),
            *("--tokens", str(self.tokens), "--out", str(self.out / name)),
        ]

    def peer(self, tool: str) -> list[str]:
        """Return the command of another tool."""
        texts = [str(self.out / name) for name in ("calibration.txt", "evaluation.txt")]
        return [tool, self.model, *texts, str(self.length), str(self.samples)]


@dataclass(frozen=True)
class Row:
    """One command.

    Attributes:
        title: what it does, in words.
        arguments: of natsel, from the folders of the run.
        floor: the largest ratio of perplexities that is to be reached; None where none is said.
        aim: the ratio that is hoped for.
        after: the row whose folder it reads, if it reads one.
        tool: runs ``python -m natsel_bench.language_peers`` in place of natsel.
    """

    title: str
    arguments: Callable[[Folders], list[str]]
    floor: float | None = None
    aim: float | None = None
    after: str = ""
    tool: bool = False


ROWS: dict[str, Row] = {
    "neurons-30": Row(
        "30 % of the MLP neurons",
        lambda f: f.prune("neurons-30", "--sparsity", "0.3", *MLP),
        1.28,
        1.20,
    ),
    "neurons-50": Row(
        "50 % of the MLP neurons",
        lambda f: f.prune("neurons-50", "--sparsity", "0.5", *MLP),
        1.60,
        1.45,
    ),
    "neurons-30-obs": Row(
        "30 % of the MLP neurons, by obs",
        lambda f: f.prune("neurons-30-obs", "--sparsity", "0.3", "--scorer", "obs", *MLP),
        1.28,
        1.20,
    ),
    "neurons-50-obs": Row(
        "50 % of the MLP neurons, by obs",
        lambda f: f.prune("neurons-50-obs", "--sparsity", "0.5", "--scorer", "obs", *MLP),
        1.60,
        1.45,
    ),
    "parameters": Row(
        "80 % of the parameters left, all kinds",
        lambda f: f.prune("parameters", "--budget", "parameters=0.8"),
        1.5,
        1.3,
    ),
    "weights-50": Row(
        "50 % of the single weights",
        lambda f: f.prune("weights-50", "--weights", "0.5"),
        1.45,
        1.35,
    ),
    "weights-50-obs": Row(
        "50 % of the single weights, column by column",
        lambda f: f.prune("weights-50-obs", "--weights", "0.5", "--scorer", "obs"),
        1.45,
        1.35,
    ),
    "weights-2-4": Row(
        "2 of 4 single weights",
        lambda f: f.prune("weights-2-4", "--weights", "2:4"),
        2.4,
        2.2,
    ),
    "recovered": Row(
        "30 % of the MLP neurons, recovered",
        lambda f: f.recover("neurons-30", "recovered"),
        after="neurons-30",
    ),
    "torch-pruning": Row(
        "torch-pruning, GroupTaylor: 30 % of the MLP neurons",
        lambda f: f.peer("torch-pruning"),
        tool=True,
    ),
    "wanda": Row(
        "Wanda by hand: 50 % of the single weights by row",
        lambda f: f.peer("wanda"),
        tool=True,
    ),
}


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
        model: folder of the dense model, with its tokenizer.
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
    parts = _cut(Path(text), CHARACTERS * length * samples)
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
        folders = Folders(model, target, length, samples, tokens)
        for name, part in parts.items():
            if not (target / name).is_file():
                write_atomic(target / name, part.encode())
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


def _cut(text: Path, size: int) -> dict[str, str]:
    """Return the beginning, the middle and the end of a text, by the names of their files."""
    try:
        content = text.read_bytes().decode()
    except UnicodeDecodeError as error:
        refuse("text", str(text), f"a file in UTF-8 ({error.reason})")
    except OSError as error:
        refuse("text", str(text), f"a file that can be read ({error.strerror})")
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
