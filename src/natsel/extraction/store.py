"""A small model in a folder: tensors, plan and companions, replaced together."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.common.folders import Sealed, check_replaceable, locate, replace_together
from natsel.common.tensorfiles import described, description, read_tensors, write_tensors
from natsel.communities.gates.gates import folded
from natsel.communities.tensors import tensors_of, tied_names
from natsel.extraction.plan import Plan, plan_of

PLAN_FILE = "plan.json"
MODEL_FILE = "model.safetensors"
_ATTEMPTS = 3
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True)
class Stored:
    """What a folder holds, checked byte by byte; nothing of it was executed.

    Attributes:
        folder: where.
        plan: of the small model.
        files: where each file of the plan is.
    """

    folder: Path
    plan: Plan
    files: Mapping[str, Path]

    def tensors(self) -> dict[str, Tensor]:
        """Read the tensors.

        Raises:
            ValueError: if they are not those that the plan lists.
        """
        self.check_tensors()
        return {n: t for path in self._paths() for n, t in read_tensors(path).items()}

    def check_tensors(self) -> None:
        """Make sure that the files hold what the plan lists, from their headers alone.

        Raises:
            ValueError: if they do not.
        """
        paths = self._paths()
        found = [described(path) for path in paths]
        held = {name: entry for each in found for name, entry in each.items()}
        if held != self.plan.tensors or len(held) != sum(map(len, found)):
            told = f"{paths[0]} does" if len(paths) == 1 else f"{len(paths)} files in {self.folder}"
            told += "" if len(paths) == 1 else " do"
            raise ValueError(f"{told} not hold the tensors that its plan lists")

    def _paths(self) -> list[Path]:
        return [self.files[name] for name in tensor_files(self.files)]

    @property
    def num_elements(self) -> int:
        """How many numbers are stored."""
        return sum(math.prod(entry["shape"]) for entry in self.plan.tensors.values())


def write_model(
    small: nn.Module,
    folder: str | Path,
    *,
    constructor: dict[str, Any] | None = None,
    companions: Mapping[str, bytes] | None = None,
    left_out: Collection[str] = (),
    repeated: Collection[str] = (),
    absent: Collection[str] = (),
    plan: Plan | None = None,
) -> Path:
    """Write an extracted model: ``model.safetensors``, ``plan.json`` and companions, no pickle.

    Args:
        small: a model returned by :func:`natsel.extract`.
        folder: where; other files in it stay. Until everything is on the disk it holds what it
            held before.
        constructor: how the dense model is made, see :class:`Plan`.
        companions: further files, name to content.
        left_out: tensors that the constructor restores.
        repeated: names of shared tensors under which they are stored once more.
        absent: names under which an empty tensor says that the model has none.
        plan: of the model; its own if not given.

    Returns:
        The folder.

    Raises:
        ValueError: if the model was not extracted by natsel, or the folder holds files of the
            same names that natsel did not save.
        OSError: if something cannot be written.
    """
    folder = Path(folder)
    tied = tied_names(small)
    small = folded(small)
    kept = tensors_of(small)
    tensors = {name: t for name, t in kept.items() if name not in left_out}
    copies = {name: kept[tied[name]].detach().clone() for name in repeated}
    copies |= {name: torch.zeros(0) for name in absent}
    plan = replace(
        plan if plan is not None else plan_of(small),
        constructor=constructor,
        tensors={name: description(t) for name, t in {**tensors, **copies}.items()},
        tied={name: first for name, first in tied.items() if first in tensors},
        frozen=[n for n, p in small.named_parameters() if not p.requires_grad],
    )
    writers: dict[str, Callable[[Path], object]] = {
        name: partial(_write_bytes, content) for name, content in (companions or {}).items()
    }
    writers[MODEL_FILE] = partial(write_tensors, tensors={**_separate(tensors), **copies})

    def seal(sealed: Mapping[str, Sealed]) -> bytes:
        return replace(plan, files={n: asdict(s) for n, s in sealed.items()}).to_json()

    replace_together(folder, writers, PLAN_FILE, seal, held=partial(_held, folder))
    return folder


def read_folder(folder: str | Path) -> Stored:
    """Check what :func:`write_model` wrote; tensors are not read yet.

    Raises:
        ValueError: if a file is missing, damaged, a link, or of another version.
    """
    folder = Path(folder)
    for attempt in range(_ATTEMPTS):
        content = _read_plan(folder)
        plan = Plan.from_json(content, str(folder / PLAN_FILE))
        if not tensor_files(plan.files):
            raise ValueError(f"{folder / PLAN_FILE} does not list {MODEL_FILE}")
        try:
            files = {n: locate(folder, n, Sealed(**s)) for n, s in plan.files.items()}
        except ValueError:
            # Someone may have saved here while the files were read.
            if attempt + 1 < _ATTEMPTS and _read_plan(folder) != content:
                continue
            raise
        return Stored(folder, plan, files)
    raise AssertionError


def tensor_files(names: Iterable[str]) -> list[str]:
    """Return which files of a folder hold its tensors: one, or several that follow one another.

    Example:
        >>> tensor_files(["config.json", "model-00002-of-00002.safetensors", "masses.safetensors",
        ...     "model-00001-of-00002.safetensors"])
        ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """
    names = list(names)
    return [MODEL_FILE] if MODEL_FILE in names else sorted(filter(_SHARD.fullmatch, names))


def is_saved(folder: Path) -> bool:
    """Say whether a folder holds a plan."""
    return (folder / PLAN_FILE).is_file()


def check_room(folder: Path, argument: str = "folder") -> None:
    """Make sure that a model may be saved into a folder, before the work that makes it.

    Args:
        folder: where.
        argument: what the caller calls it.

    Raises:
        ValueError: if it holds a model that natsel did not save, or not this way.
    """
    check_replaceable(folder, [MODEL_FILE], _held(folder), argument=argument)


def _read_plan(folder: Path) -> bytes:
    path = folder / PLAN_FILE
    if not path.is_file() or path.is_symlink():
        refuse("folder", str(folder), f"a folder with {PLAN_FILE} and {MODEL_FILE}")
    return path.read_bytes()


def _held(folder: Path) -> dict[str, Sealed]:
    """Return what the plan in a folder lists, nothing if there is none."""
    if not os.path.lexists(folder / PLAN_FILE):
        return {}
    plan = Plan.from_json(_read_plan(folder), str(folder / PLAN_FILE))
    return {name: Sealed(**sealed) for name, sealed in plan.files.items()}


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy what shares its storage with another tensor: one is a view of the other."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.detach().clone() if storage in seen else tensor
        seen.add(storage)
    return result
