"""What an individual is worth on each window; nothing is run twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.adaptive.arena import key_of
from natsel.common.calls import (
    IGNORED,
    Inputs,
    logits_of,
    tensors_of_inputs,
    with_tensors,
    without_cache,
)
from natsel.common.errors import NonFiniteError, refuse
from natsel.common.modes import evaluating
from natsel.communities import Communities
from natsel.levels.dense import Dense, classes_last
from natsel.levels.masking import Masking
from natsel.quality.losses import run_model

Measure = Literal["kl", "loss", "error"]
MEASURES: tuple[Measure, ...] = ("kl", "loss", "error")
COUNTS = ("num_windows", "num_run", "num_tokens")
CHUNK = 1 << 23
"""Numbers of a chunk of log-probabilities."""
TOGETHER = 32
"""Samples with one label each that make a window: they are judged together."""


class Judge:
    """Judges selections on windows, and remembers what each came to.

    Args:
        communities: what selections are of; the model is not changed.
        inputs: ``[N, ...]`` samples, or several such tensors.
        labels: beside the outputs that predict them; None for "kl".
        measure: "kl": divergence of what survives from the dense model, over the places of a
            window; "loss": cross-entropy of the labels; "error": the share that is wrong.

    Attributes:
        places: how many places each window has, float64 ``[windows]``.
        num_windows: windows that were run, over all selections.
        num_tokens: places in them.
        num_run: selections of which at least one window was run.
    """

    def __init__(
        self,
        communities: Communities,
        inputs: Inputs,
        labels: Tensor | None = None,
        *,
        measure: Measure = "kl",
    ) -> None:
        if measure != "kl" and labels is None:
            refuse("fitness", measure, "'kl', which needs no labels, or batches with labels")
        self.measure = measure
        self._masking = Masking(communities)
        several = labels is not None and labels.dim() > 1
        model = self._masking.model
        if not several:
            several = _predicts_many(model, _part(inputs, 0, 1))
        size = len(tensors_of_inputs(inputs)[0])
        step = 1 if several else min(TOGETHER, max(1, size // 8))
        cuts = [(i, min(i + step, size)) for i in range(0, size, step)]
        self.windows = [_part(inputs, *ends) for ends in cuts]
        self.labels = None if labels is None else [labels[a:b] for a, b in cuts]
        self._dense = Dense(model, self.windows) if measure == "kl" else None
        self.places = torch.tensor([self._count(i) for i in range(len(cuts))], dtype=torch.float64)
        self.num_windows = self.num_tokens = self.num_run = 0
        self._known: dict[str, list[float]] = {}

    def __len__(self) -> int:
        """Return how many windows there are."""
        return len(self.windows)

    def totals(self, survivors: Mapping[str, Tensor], stop: int | None = None) -> Tensor:
        """Return what the first windows come to, summed over their places: lower is better.

        Args:
            survivors: one boolean tensor per community.
            stop: how many windows; None for all.

        Returns:
            float64 ``[stop]``; infinite where it is not finite.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        known = self._known.setdefault(key_of(survivors), [])
        if len(known) < stop:
            self.num_run += not known
            known += self._run(survivors, len(known), stop)
        return torch.tensor(known[:stop], dtype=torch.float64)

    def beaten(self, survivors: Mapping[str, Tensor], bound: float) -> bool:
        """Tell whether what is known already says that a selection comes to a bound or more."""
        return not sum(self._known.get(key_of(survivors), ())) < bound

    def value(self, survivors: Mapping[str, Tensor]) -> float:
        """Return the mean over all places of all windows."""
        return float(self.totals(survivors).sum() / self.places.sum())

    def state(self) -> dict[str, Any]:
        """Return what is known, as JSON holds it."""
        return {"known": self._known, **{name: getattr(self, name) for name in COUNTS}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned."""
        self._known = {key: [float(v) for v in values] for key, values in state["known"].items()}
        for name in COUNTS:
            setattr(self, name, int(state[name]))

    def digest(self) -> str:
        """Return a digest of the windows and of how they are judged."""
        digest = hashlib.sha256(self.measure.encode())
        for window in self.windows:
            for tensor in tensors_of_inputs(window):
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _run(self, survivors: Mapping[str, Tensor], start: int, stop: int) -> list[float]:
        found = []
        with (
            self._masking.masked(survivors) as (model, replaced),
            evaluating(model),
            without_cache(model),
            torch.no_grad(),
        ):
            for number in range(start, stop):
                logits = logits_of(run_model(model, self.windows[number], replaced))
                value = self._judged(classes_last(logits).float(), number)
                found.append(value if value == value else float("inf"))
                self.num_windows += 1
                self.num_tokens += int(self.places[number])
        return found

    def _judged(self, logits: Tensor, number: int) -> float:
        if self.labels is not None and self.measure != "kl":
            rows, labels = logits.flatten(0, -2), self.labels[number].flatten().to(logits.device)
            counts = labels != IGNORED
            if self.measure == "error":
                return float(((rows.argmax(-1) != labels) & counts).sum())
            losses = F.cross_entropy(rows, labels, ignore_index=IGNORED, reduction="none")
            return float(losses.double().sum())
        assert self._dense is not None
        there = self._there(number, self._dense.shapes[number]).flatten().to(logits.device)
        rows = logits.flatten(0, -2)
        step = max(1, CHUNK // rows.shape[-1])
        total = 0.0
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            dense = self._dense(number, part)
            each = F.kl_div(rows[part].log_softmax(-1), dense, log_target=True, reduction="none")
            # Rounding makes the least divergences negative; a sum of them must not shrink.
            total += float((each.sum(-1).double().clamp_min(0.0) * there[part]).sum())
        return total

    def _there(self, number: int, shape: torch.Size) -> Tensor:
        """Return 1 for each place of a window that is no padding."""
        window = self.windows[number]
        mask = window.get("attention_mask") if isinstance(window, dict) else None
        if mask is None or mask.shape != shape:
            return torch.ones(shape, dtype=torch.float64)
        return mask.double()

    def _count(self, number: int) -> float:
        if self.labels is not None and self.measure != "kl":
            counted = int((self.labels[number] != IGNORED).sum())
            if not counted:
                refuse("data", f"window {number} without a label that counts", "labels in each")
            return float(counted)
        assert self._dense is not None
        return float(self._there(number, self._dense.shapes[number]).sum())


def _predicts_many(model: nn.Module, inputs: Inputs) -> bool:
    with evaluating(model), without_cache(model), torch.no_grad():
        return logits_of(run_model(model, inputs, {})).dim() > 2


def _part(inputs: Inputs, start: int, stop: int) -> Inputs:
    return with_tensors(inputs, [x[start:stop] for x in tensors_of_inputs(inputs)])


def check_finite(value: float, what: str) -> float:
    """Return a value, made sure that it is finite.

    Raises:
        NonFiniteError: if it is not.
    """
    if not abs(value) < float("inf"):
        raise NonFiniteError(f"the fitness of {what} is NaN or infinite on the data")
    return value
