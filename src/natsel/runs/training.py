"""Ordinary training, with or without an evolution beside it, that can be killed and go on."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.calls import cross_entropy
from natsel.common.errors import NonFiniteError, choose, refuse
from natsel.common.logs import logger_of
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.data import batches, crop_and_flip
from natsel.evolution import Evolution
from natsel.runs.checkpoint import Parts, keep, resume
from natsel.runs.measure import outcomes
from natsel.runs.splits import Splits
from natsel.runs.torchrun import ALONE, Processes

_LOG = logger_of(__name__)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the same for every network of a comparison.

    The learning rate falls linearly to 0 over the run. It is a schedule of the optimizer; nothing
    in it knows about selection.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples per step.
        learning_rate: of Adam, at the start.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        precision: "float32", or "bfloat16" for forward passes under autocast.
    """

    epochs: int = 8
    batch_size: int = 128
    learning_rate: float = 2e-3
    label_smoothing: float = 0.1
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            check_whole(name, getattr(self, name))
        rate = self.learning_rate
        if not isinstance(rate, int | float) or not math.isfinite(rate) or rate <= 0:
            refuse("learning_rate", rate, "a finite number > 0")
        if not 0 <= self.label_smoothing < 1:
            refuse("label_smoothing", self.label_smoothing, "a number in [0, 1)")
        choose("precision", self.precision, ("float32", "bfloat16"))


@dataclass
class Trained:
    """What training leaves behind.

    Attributes:
        history: one row per epoch: loss, validation accuracy, living, pressure.
        seconds: time spent in training steps, over all resumed parts.
        resumed_from: the epoch at which this process went on.
    """

    history: list[dict[str, Any]]
    seconds: float
    resumed_from: int = 0


def _told(row: Mapping[str, Any], num_epochs: int) -> str:
    """Return one row of a history in words."""
    text = f"epoch {row['epoch']} of {num_epochs}, loss {row['loss']:.4f}"
    text += f", validation accuracy {row['validation_accuracy']:.2%}"
    if "alive" in row:
        text += f", {row['alive']:,} populations alive, pressure {row['pressure']:.4g}"
    return text


def _loss(model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, share: float) -> Tensor:
    """Return what some samples contribute to the loss over their batch; 0 without one."""
    if not share:
        return torch.zeros(())
    loss = cross_entropy(model(x), y, label_smoothing=recipe.label_smoothing)
    return loss if share == 1.0 else loss * share


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Adam:
    """Return the optimizer of a recipe."""
    return torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    splits: Splits,
    recipe: Recipe,
    *,
    seed: int,
    evolution: Evolution | None = None,
    checkpoint: Path | None = None,
    run: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    label: str = "train",
    processes: Processes = ALONE,
) -> Trained:
    """Train a network with cross-entropy and Adam; write a checkpoint after every epoch.

    A run that finds its checkpoint goes on from there, bit for bit as if it had never stopped.

    Args:
        model: changed in place.
        optimizer: over the model's parameters. An evolution must be attached to it already.
        splits: the data.
        recipe: how long and how fast.
        seed: of the order of batches.
        evolution: evolves beside; None for plain training.
        checkpoint: file to write and to go on from.
        run: what decides the outcome, as plain data: a checkpoint of another run is refused.
        progress: called after every few steps.
        label: what ``progress`` is told.
        processes: train together, each on its share of every batch; the first one writes. All of
            them read the checkpoint.

    Returns:
        The history and the time spent.

    Raises:
        ValueError: if the checkpoint is damaged or of another run.
        NonFiniteError: if the loss, a fitness or a weight is NaN or infinite; the step is named
            and the checkpoint of the last good epoch stays.
    """
    inputs, labels = splits.train
    generator = torch.Generator().manual_seed(seed)
    trained = Trained([], 0.0)
    parts = Parts(model, optimizer, evolution, generator)
    if checkpoint is not None and checkpoint.is_file():
        trained = Trained(*resume(checkpoint, run, recipe.epochs, parts))
    if trained.history:
        _LOG.info("%s: goes on after epoch %d", label, len(trained.history))
    told = "the checkpoint of the same epoch in every process: a folder that all of them see"
    processes.same("resume", len(trained.history), told)
    per_epoch = math.ceil(len(inputs) / recipe.batch_size)
    total = recipe.epochs * per_epoch
    augment = crop_and_flip if splits.name.startswith("cifar") else None
    half = partial(torch.autocast, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16")
    step = len(trained.history) * per_epoch
    progress(label, step, total)
    model.train()
    for epoch in range(len(trained.history), recipe.epochs):
        started = time.perf_counter()
        losses = torch.zeros(per_epoch)
        epoch_batches = batches(
            inputs, labels, batch_size=recipe.batch_size, generator=generator, augment=augment
        )
        for index, (x, y) in enumerate(epoch_batches):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * (1 - step / total)
            optimizer.zero_grad()
            x, y, share = processes.share(x, y)
            # Where gradients are switched off around it nothing would be learnt, without a word.
            with half(inputs.device.type), torch.enable_grad():
                loss = _loss(model, x, y, recipe, share)
            value = processes.sum_of(loss)
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"the loss became {value} at step {step + 1} (epoch {epoch + 1}): try a lower "
                    f"learning_rate than {recipe.learning_rate}"
                )
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            processes.add_up(model)
            optimizer.step()
            losses[index] = value
            step += 1
            if step % 20 == 0:
                progress(label, step, total)
        trained.seconds += time.perf_counter() - started
        if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
            raise NonFiniteError(
                f"a weight became NaN or infinite at or before step {step} (epoch {epoch + 1}): "
                f"try a lower learning_rate than {recipe.learning_rate}"
            )
        processes.average_buffers(model)
        row: dict[str, Any] = {"epoch": epoch + 1, "loss": float(losses.mean())}
        validated = outcomes(model, *splits.validation)
        row["validation_accuracy"] = validated.accuracy
        if splits.task is not None:
            row["validation_loss"] = validated.loss
        if evolution is not None:
            row |= {"alive": evolution.num_alive, "pressure": evolution.pressure}
        trained.history.append(row)
        _LOG.info("%s: %s", label, _told(row, recipe.epochs))
        if checkpoint is not None and processes.is_first:
            keep(checkpoint, run, parts, trained.history, trained.seconds)
    progress(label, total, total)
    return trained
