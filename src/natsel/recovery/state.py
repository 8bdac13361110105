"""A recovery on disk: written whole every so often, and taken up where it was left."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import first_line
from natsel.common.files import load_tree, save_tree
from natsel.common.folders import make_folder, remove_empty


@dataclass(eq=False)
class State:
    """What a recovery changes.

    Attributes:
        model: is trained.
        optimizer: of it.
        step: how many are done.
        curve: a row a step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """Return what of the model changes."""
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        return {**trained, **dict(self.model.named_buffers())}


def write(path: Path, run: Mapping[str, Any], state: State) -> None:
    """Write a checkpoint; the file appears whole or not at all.

    Args:
        path: where to.
        run: what decides the outcome, as plain data.
        state: of the recovery.

    Raises:
        OSError: if it cannot be written; what was there is then untouched.
    """
    tree = {
        "run": dict(run),
        "step": state.step,
        "curve": state.curve,
        "tensors": state.tensors(),
        "optimizer": state.optimizer.state_dict(),
    }
    made = make_folder(path.parent, "checkpoint")
    try:
        save_tree(path, tree)
    except BaseException:
        remove_empty(made)  # a folder without a checkpoint would pass for a run that was stopped
        raise


def read(path: Path, run: Mapping[str, Any], state: State) -> None:
    """Take a recovery up where a checkpoint left it.

    Args:
        path: of the checkpoint.
        run: as :func:`write` was given it.
        state: of a recovery that has not begun; changed in place.

    Raises:
        ValueError: if the checkpoint is damaged or of another run; the state is of no use then.
    """
    held = load_tree(path)
    if not isinstance(held, dict) or not isinstance(held.get("run"), dict):
        raise ValueError(f"{path} is damaged: it is no checkpoint of a recovery")
    if other := sorted(k for k in {*held["run"], *run} if held["run"].get(k) != run.get(k)):
        raise ValueError(f"{path} is of another run (of other {', '.join(other)})")
    try:
        mine = state.tensors()
        if held["tensors"].keys() != mine.keys():
            raise ValueError("it holds other tensors")
        with torch.no_grad():
            for name, value in held["tensors"].items():
                if value.shape != mine[name].shape or value.dtype != mine[name].dtype:
                    raise ValueError(f"its {name} is of another shape or type")
                mine[name].copy_(value)
        state.optimizer.load_state_dict(held["optimizer"])
        state.curve[:] = [dict(row) for row in held["curve"]]
        state.step = held["step"]
        if len(state.curve) != state.step:
            raise ValueError("its curve has another length")
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {first_line(error)}") from None


def digest(tensors: Sequence[tuple[str, Tensor]]) -> str:
    """Return what tells tensors from others: of their names, types, shapes and bits.

    Example:
        >>> digest([("a", torch.zeros(1))]) == digest([("a", torch.zeros(2))])
        False
    """
    found = hashlib.sha256()
    for name, tensor in tensors:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            found.update(flat.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let an interrupt wait until a block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[Any] = []
    before = signal.getsignal(signal.SIGINT)
    if before is None:  # set by what is not Python
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: waiting.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting and callable(before):
            before(*waiting[0])
