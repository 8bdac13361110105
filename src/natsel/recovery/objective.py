"""What a student loses against its teacher on some samples."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from natsel.common.calls import IGNORED, Inputs, call, logits_of, tensors_of_inputs, with_tensors
from natsel.common.errors import refuse
from natsel.common.modes import evaluating
from natsel.common.padding import MASK
from natsel.quality.head import head_of, headless, through_head
from natsel.recovery.blocks import Pairs, outputs_kept, pairs_of
from natsel.recovery.losses import apart, divergence, surprise
from natsel.recovery.settings import PRECISIONS, Settings


class Parts(NamedTuple):
    """Means over the places that count, as tensors without gradient.

    Attributes:
        kl: divergence from the teacher.
        cross_entropy: of the labels; 0 without.
        blocks: distance of block outputs; 0 where none is compared.
    """

    kl: Tensor
    cross_entropy: Tensor
    blocks: Tensor


@dataclass(frozen=True)
class Objective:
    """How student and teacher are compared.

    Attributes:
        teacher: in evaluation mode.
        heads: paths of the last layers of student and teacher; None where one is not apart.
        pairs: blocks whose outputs are compared.
        places: of a sample of which something is said: the tokens of a window, or 1.
        settings: weights, temperature and precision.
    """

    teacher: nn.Module
    heads: tuple[str, str] | None
    pairs: Pairs
    places: int
    settings: Settings

    def counted(self, inputs: Inputs, labels: Tensor | None) -> Tensor | None:
        """Return which places count: those with a label, else those that are no padding.

        Returns:
            bool, of the shape of the labels or of ``attention_mask``; None where nothing says it.
        """
        if labels is not None:
            return labels != IGNORED
        mask = inputs.get(MASK) if isinstance(inputs, dict) else None
        if not isinstance(mask, Tensor) or mask.shape[1:] != (self.places,):
            return None
        return mask != 0

    def __call__(
        self, student: nn.Module, inputs: Inputs, labels: Tensor | None, counts: Tensor | None
    ) -> tuple[Tensor, Parts]:
        """Return the loss, to be differentiated, and its parts.

        Args:
            student: in the mode in which it is trained.
            inputs: of some samples, on the student's device.
            labels: of the same; None without.
            counts: which places count, bool ``[N]`` or ``[N, T]``; None for all. At least one.
        """
        heads = self.heads or (None, None)
        device = next(student.parameters()).device
        with _precision(self.settings.autocast, device):
            with headless(self.teacher, heads[1]), torch.no_grad():
                given = on_device_of(self.teacher, inputs)
                told, theirs = self._run(self.teacher, given, self.pairs.teacher, device)
            with headless(student, heads[0]):
                said, mine = self._run(student, inputs, self.pairs.student, device)
            said, told = (_rows(x, labels, counts, heads[0]) for x in (said, told))
            asked = labels[counts] if labels is not None and counts is not None else labels
            asked = asked.flatten() if asked is not None else None
            measure = self._measure(student, heads, told, asked)
            if heads[0] is not None:
                head = student.get_submodule(heads[0])
                assert isinstance(head, nn.Linear)
                loss, seen = through_head(said, head, measure)
            else:
                loss, seen = measure(said, slice(0, len(said)))
            loss, seen = loss / len(said), seen / len(said)
        distance = torch.zeros((), device=device)
        if mine:
            each = [_mean(apart(s, t), counts) for s, t in zip(mine, theirs, strict=True)]
            distance = torch.stack(each).mean()
            loss = loss + self.settings.blocks * distance
        return loss, Parts(seen[0], seen[1], distance.detach())

    def _run(
        self, model: nn.Module, inputs: Inputs, paths: tuple[str, ...], device: torch.device
    ) -> tuple[Tensor, list[Tensor]]:
        wanted = paths if self.settings.blocks else ()
        with outputs_kept(model, wanted) as held:
            found = logits_of(call(model, inputs))
        return found.to(device), [x.to(device) for x in held]

    def _measure(
        self,
        student: nn.Module,
        heads: tuple[str | None, str | None],
        told: Tensor,
        labels: Tensor | None,
    ) -> Any:
        settings = self.settings

        def measure(logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                theirs = told[rows]
                if heads[1] is not None:
                    head = self.teacher.get_submodule(heads[1])
                    assert isinstance(head, nn.Linear)
                    theirs = head(theirs.to(head.weight.device)).to(logits.device)
            kl = divergence(logits, theirs, settings.temperature).sum()
            ce = torch.zeros_like(kl)
            if labels is not None:
                ce = surprise(logits, labels[rows]).sum()
            loss = settings.kl * kl
            if settings.cross_entropy:
                loss = loss + settings.cross_entropy * ce
            return loss, torch.stack([kl.detach(), ce.detach()])

        return measure


def compare(
    student: nn.Module,
    teacher: nn.Module,
    inputs: Inputs,
    labels: Tensor | None,
    settings: Settings,
) -> Objective:
    """Return how two models are compared, found by running both on a sample.

    Args:
        student: on its device.
        teacher: on any.
        inputs: of one sample, on the student's device.
        labels: of it; None without.
        settings: of the recovery.

    Raises:
        ValueError: if the two do not say the same kind of thing.
    """
    others = on_device_of(teacher, inputs)
    shapes = []
    for model, given in ((student, inputs), (teacher, others)):
        with evaluating(model), torch.no_grad():
            shapes.append(tuple(logits_of(call(model, given)).shape))
    if shapes[0] != shapes[1]:
        told = f"{shapes[1]} of what the small model returns as {shapes[0]}"
        allowed = "one of the same vocabulary or classes as the small model's"
        refuse("teacher", f"{type(teacher).__name__} that returns {told}", allowed)
    if labels is not None and labels.is_floating_point():
        refuse("data", "labels that are no classes", "labels that are whole numbers, or none")
    heads = head_of(student, inputs), head_of(teacher, others)
    places_last = labels.shape == shapes[0][:-1] if labels is not None else len(shapes[0]) < 4
    split = None if None in heads or not places_last else heads
    pairs = pairs_of(student, teacher, inputs, others) if settings.blocks else Pairs()
    axes = shapes[0][1:-1] if len(shapes[0]) < 4 or places_last else shapes[0][2:]
    return Objective(teacher, split, pairs, math.prod(axes), settings)  # type: ignore[arg-type]


def on_device_of(model: nn.Module, inputs: Inputs) -> Inputs:
    """Return inputs on the device of a model."""
    device = next((p.device for p in model.parameters()), None)
    return with_tensors(inputs, [x.to(device) for x in tensors_of_inputs(inputs)])


def _rows(found: Tensor, labels: Tensor | None, counts: Tensor | None, head: str | None) -> Tensor:
    """Return what was said of the places that count, ``[N, K]``."""
    if head is None and found.dim() > 2:
        known = labels if labels is not None else counts
        last = found.shape[:-1] == known.shape if known is not None else found.dim() == 3
        found = found if last else found.movedim(1, -1)
    return found.flatten(0, -2) if counts is None else found[counts]


def _mean(each: Tensor, counts: Tensor | None) -> Tensor:
    if counts is not None and each.shape == counts.shape:
        return each[counts].mean()
    return each.mean()


def _precision(name: str | None, device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if name is None else torch.autocast(device.type, PRECISIONS[name])
