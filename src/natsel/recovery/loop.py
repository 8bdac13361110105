"""The plain loop: samples, loss, gradient, step; written to disk every so often."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, tensors_of_inputs, with_tensors, without_cache
from natsel.common.errors import NonFiniteError
from natsel.common.finite import nonfinite
from natsel.common.interrupts import clearing_up
from natsel.common.modes import evaluating
from natsel.common.progress import Progress, silent
from natsel.recovery.objective import Objective, on_device_of
from natsel.recovery.order import chosen, seed_of
from natsel.recovery.settings import Settings
from natsel.recovery.state import State, read, undisturbed, write
from natsel.recovery.together import ALONE, Together

SECONDS = 300.0
"""Between two checkpoints, unless steps are counted."""


@dataclass(frozen=True, eq=False)
class Samples:
    """What is trained on, all of it in memory.

    Attributes:
        inputs: one row a sample.
        labels: each in the place of the output that predicts it; None without.
    """

    inputs: Inputs
    labels: Tensor | None

    def __len__(self) -> int:
        return len(tensors_of_inputs(self.inputs)[0])

    def rows(self, which: Tensor) -> tuple[Inputs, Tensor | None]:
        """Return some samples."""
        taken = [x[which.to(x.device)] for x in tensors_of_inputs(self.inputs)]
        labels = None if self.labels is None else self.labels[which.to(self.labels.device)]
        return with_tensors(self.inputs, taken), labels


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Where a recovery is kept while it runs.

    Attributes:
        path: of the checkpoint; None for none.
        run: what decides the outcome, as plain data.
        every: steps between two checkpoints; None for five minutes.
    """

    path: Path | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    every: int | None = None


def train(
    student: nn.Module,
    objective: Objective,
    samples: Samples,
    masks: Mapping[str, Tensor],
    settings: Settings,
    *,
    keeping: Keeping,
    look: Callable[[nn.Module], float | None],
    look_every: int,
    progress: Progress = silent,
    what: str = "recover",
    together: Together = ALONE,
) -> list[dict[str, Any]]:
    """Train a student until its steps are done.

    Args:
        student: changed in place; in training mode meanwhile.
        objective: what is lost.
        samples: to learn from.
        masks: by the name of a parameter, where it is not zero and may change.
        settings: of the recovery.
        keeping: of the state on disk.
        look: measures the student on held-out data, or returns None.
        look_every: steps between two such looks.
        progress: called after every step.
        what: is being done.
        together: the processes that share each step.

    Returns:
        The curve, a row a step.

    Raises:
        ValueError: if there is a checkpoint that is damaged, or of another run.
        NonFiniteError: if the loss or the gradient becomes NaN or infinite.
        OSError: if a checkpoint cannot be written.
    """
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    state = State(student, optimizer)
    path = keeping.path
    if path is not None and path.exists():
        read(path, keeping.run, state)
    together.wait()
    if not together.is_first:
        path, progress = None, silent
    held = _held(student, masks)
    written = time.monotonic()
    with (
        clearing_up(),
        _training(student),
        evaluating(objective.teacher),
        without_cache(student),
        without_cache(objective.teacher),
    ):
        try:
            while True:
                done = state.step == settings.steps
                due = state.step % look_every == 0 or done
                if state.curve and due and "held_out" not in state.curve[-1]:
                    state.curve[-1]["held_out"] = look(student)
                kept = time.monotonic() - written > SECONDS
                if keeping.every is not None:
                    kept = state.step % keeping.every == 0
                if path is not None and state.step and (kept or done):
                    write(path, keeping.run, state)
                    written = time.monotonic()
                if state.step:
                    progress(what, state.step, settings.steps)
                if done:
                    break
                _step(state, objective, samples, held, settings, path, together)
        except KeyboardInterrupt:
            if path is not None and state.step:
                write(path, keeping.run, state)
            raise
    return state.curve


def _step(
    state: State,
    objective: Objective,
    samples: Samples,
    held: list[tuple[nn.Parameter, Tensor]],
    settings: Settings,
    path: Path | None,
    together: Together,
) -> None:
    """Take one step; the state is that of before, or that of after it, also after an interrupt."""
    buffers = [b.detach().clone() for b in state.model.buffers()]
    try:
        row = _gradients(state, objective, samples, held, settings, path, together)
        rate = row["learning_rate"]
    except BaseException:
        # The step was not taken, but a normalisation may have seen its samples.
        with torch.no_grad():
            for buffer, before in zip(state.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        raise
    with undisturbed():
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.step()
        state.step += 1
        state.curve.append(row)


def _gradients(
    state: State,
    objective: Objective,
    samples: Samples,
    held: list[tuple[nn.Parameter, Tensor]],
    settings: Settings,
    path: Path | None,
    together: Together,
) -> dict[str, Any]:
    """Compute the gradients of a step, and return what is told of it."""
    step, model = state.step, state.model
    state.optimizer.zero_grad(set_to_none=True)
    which = chosen(step, settings.batch, len(samples), settings.seed)[: settings.size(step)]
    pieces = []
    for rows in torch.split(which, min(settings.rows, together.share(len(which)))):
        inputs, labels = samples.rows(rows)
        inputs = on_device_of(model, inputs)
        device = tensors_of_inputs(inputs)[0].device
        labels = labels.to(device) if labels is not None else None
        counts = objective.counted(inputs, labels)
        pieces.append((inputs, labels, counts, _count(len(rows), counts, objective)))
    total = sum(count for *_, count in pieces)
    means = torch.zeros(4)
    with torch.random.fork_rng(devices=_devices(model)):
        torch.manual_seed(seed_of(settings.seed, step))
        for inputs, labels, counts, count in together.own(pieces):
            if not count:
                continue
            loss, parts = objective(model, inputs, labels, counts)
            torch.autograd.backward(loss * (count / total))
            means += torch.stack([loss.detach(), *parts]).cpu().float() * (count / total)
    means = together.add_up(model, means)
    with torch.no_grad():
        for parameter, mask in held:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(trained, settings.clip))
    values = [float(x) for x in means]
    if not all(math.isfinite(x) for x in (*values, norm)):
        raise NonFiniteError(
            f"the loss or its gradient became NaN or infinite at step {step + 1} of "
            f"{settings.steps}{_why(state, objective, settings, path)}"
        )
    before = state.curve[-1]["places"] if state.curve else 0
    names = ("loss", "kl", "cross_entropy", "blocks")
    return {
        "step": step + 1,
        "places": before + total,
        **dict(zip(names, values, strict=True)),
        "norm": norm,
        "learning_rate": settings.rate(step),
    }


def _why(state: State, objective: Objective, settings: Settings, path: Path | None) -> str:
    """Return what to do about a loss that is no number: no rate helps what was none before."""
    for who, model in (("small", state.model), ("teacher", objective.teacher)):
        if (name := nonfinite(model)) is not None and (who == "teacher" or not state.step):
            return f": {name} of the {who} model holds NaN or infinity"
    kept = "; the checkpoint of an earlier step stays at {}" if _is_there(path) else ""
    return f": a learning_rate below {settings.learning_rate:g} may help{kept.format(path)}"


def _is_there(path: Path | None) -> bool:
    return path is not None and path.exists()


def _held(student: nn.Module, masks: Mapping[str, Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
    named = dict(student.named_parameters())
    return [(named[name], mask.to(named[name].device)) for name, mask in masks.items()]


def _devices(model: nn.Module) -> list[torch.device]:
    return sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Put a model into training mode for a while."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def places_of(samples: Samples, objective: Objective) -> int:
    """Return how many places of all samples count."""
    counts = objective.counted(samples.inputs, samples.labels)
    return _count(len(samples), counts, objective)


def _count(rows: int, counts: Tensor | None, objective: Objective) -> int:
    return rows * objective.places if counts is None else int(counts.sum())
