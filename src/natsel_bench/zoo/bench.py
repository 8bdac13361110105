"""The zoo: what people download, small, taken apart and put together; a row a model."""

from __future__ import annotations

import importlib.metadata
import random
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from natsel.common.errors import refuse
from natsel.common.files import write_atomic, write_json
from natsel.common.json_data import read_object
from natsel.common.progress import Progress, silent
from natsel.runs import environment, folder
from natsel_bench.zoo.apart import processes, run_apart
from natsel_bench.zoo.catalog import CATALOG
from natsel_bench.zoo.page import page
from natsel_bench.zoo.summary import compact, summary

LIBRARIES = ("torchvision", "timm", "transformers", "diffusers", "ultralytics", "torch-pruning")
MODELS = "models"


def chosen(only: Sequence[str] = (), part: str | None = None, seed: int = 0) -> list[str]:
    """Name the models of a run, in the order of the catalogue.

    Args:
        only: patterns of names, such as ``timm/*``; none means all.
        part: "K/N": the K-th of N parts of them; which one a model is in the seed decides.
        seed: of the parts.

    Raises:
        ValueError: if a pattern fits nothing, or the part is none.

    Example:
        >>> first, second = (chosen(["torchvision/resnet*"], f"{k}/2") for k in (1, 2))
        >>> sorted(first + second)
        ['torchvision/resnet18', 'torchvision/resnet50']
    """
    for pattern in only:
        if not any(fnmatch(name, pattern) for name in CATALOG):
            refuse("only", pattern, "a pattern that fits a model, such as timm/*")
    names = [n for n in CATALOG if not only or any(fnmatch(n, p) for p in only)]
    if part is None:
        return names
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        refuse("part", part, "K/N with 1 <= K <= N, such as 2/5")
    shuffled = list(names)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 (no secret)
    mine = set(shuffled[int(found[1]) - 1 :: int(found[2])])
    return [name for name in names if name in mine]


def bench_zoo(
    out: str | Path,
    *,
    only: Sequence[str] = (),
    part: str | None = None,
    seed: int = 0,
    limit: float = 120.0,
    memory: float = 8.0,
    resume: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Try every model: discover, remove, compare, save, load, train, generate; a peer beside.

    Each runs in a process of its own with one thread. What is compared is float64 on inputs of
    another shape, with a reference that uses nothing of natsel: the dense model with zeros in
    place of what is gone. A model that cannot be built, exported, or that is too large or slow is
    a row like others.

    Args:
        out: a folder for ``zoo.json``, ``zoo.md`` and a file a model.
        only: patterns of names, such as ``timm/*``; none means all.
        part: "K/N", one of N parts.
        seed: of weights, inputs, selections and parts.
        limit: seconds of processor time for a model.
        memory: gigabytes for a model.
        resume: go on with what the folder holds.
        progress: called between models.

    Returns:
        The rows and their summary.

    Raises:
        ValueError: if an argument is not allowed.
    """
    names = chosen(only, part, seed)
    for argument, value in (("limit", limit), ("memory", memory)):
        if not value > 0:
            refuse(argument, value, "a number > 0")
    target = Path(out)
    config: dict[str, Any] = {"bench": "zoo", "only": list(only), "part": part, "seed": seed}
    config |= {"limit": limit, "memory": memory}
    with folder.claim(target, config, resume):
        folder.take(target, config)
        (target / MODELS).mkdir(exist_ok=True)
        context = processes()
        rows = []
        for number, name in enumerate(names):
            progress("bench zoo", number, len(names))
            path = target / MODELS / f"{name.replace('/', '--')}.json"
            if not path.is_file():
                write_json(path, run_apart(context, name, seed=seed, limit=limit, memory=memory))
            rows.append(read_object(path))
        progress("bench zoo", len(names), len(names))
        result = result_of(config, rows)
        write_json(target / "zoo.json", result)
        write_atomic(target / "zoo.md", page(result).encode())
    return result


def result_of(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what ``zoo.json`` holds.

    Args:
        config: of the run.
        rows: one a model, as its process wrote it.
    """
    made = environment.record()
    return {
        **config,
        "catalogue": len(CATALOG),
        "summary": summary(rows),
        "rows": [compact(row) for row in rows],
        **made,
        "versions": {**made["versions"], **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
