"""What an individual is worth on each window; nothing is run twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.adaptive.arena import key_of
from natsel.blockwise import Store
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
from natsel.levels.masking import Lends, Masking
from natsel.levels.prefix import ROOM, Prefix
from natsel.quality.head import head_of, headless
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
        communities: what selections are of, or what lends the model without what goes; it is not
            changed.
        inputs: ``[N, ...]`` samples, or several such tensors.
        labels: beside the outputs that predict them; None for "kl".
        measure: "kl": divergence of what survives from the dense model, over the places of a
            window; "loss": cross-entropy of the labels; "error": the share that is wrong.
        places: of each window only so many are judged, drawn once by chance; None for all. The
            model reads the whole window, its last layer only these places.
        at_once: of how many windows hidden states are held, at least.
        room: bytes for hidden states.
        store: where they are held; in memory by default.

    Attributes:
        places: how many places are judged of each window, float64 ``[windows]``.
        prefix: hidden states of the selection that others begin from.
        num_windows: windows that were run, over all selections.
        num_tokens: places that were judged in them.
        num_run: selections of which at least one window was run.
    """

    def __init__(
        self,
        communities: Communities | Lends,
        inputs: Inputs,
        labels: Tensor | None = None,
        *,
        measure: Measure = "kl",
        places: int | None = None,
        at_once: int = 8,
        room: int = ROOM,
        store: Store | None = None,
    ) -> None:
        if measure != "kl" and labels is None:
            refuse("fitness", measure, "'kl', which needs no labels, or batches with labels")
        self.measure = measure
        self._masking: Lends = (
            Masking(communities) if isinstance(communities, Communities) else communities
        )
        model = self._masking.model
        self._shape = _places_of(model, _part(inputs, 0, 1))
        several = bool(self._shape) or (labels is not None and labels.dim() > 1)
        size = len(tensors_of_inputs(inputs)[0])
        step = 1 if several else min(TOGETHER, max(1, size // 8))
        cuts = [(i, min(i + step, size)) for i in range(0, size, step)]
        self.windows = [_part(inputs, *ends) for ends in cuts]
        self.labels = None if labels is None or measure == "kl" else [labels[a:b] for a, b in cuts]
        # Of images the places are not all dimensions but the last: their logits are made whole.
        self._head = head_of(model, self.windows[0]) if len(self._shape) < 2 else None
        self._rows: list[Tensor] = []
        for number, window in enumerate(self.windows):
            there = self._there(number, window)
            self._rows.append(sampled(there, places, seed=number))
        self._dense = None
        if measure == "kl":
            self._dense = Dense(model, self.windows, self._rows, head=self._head)
        self.prefix = Prefix(
            *(model, self._masking.owned, self.windows[0]),
            num_windows=len(cuts),
            at_once=at_once,
            room=room,
            store=store,
        )
        self.places = torch.tensor([len(rows) for rows in self._rows], dtype=torch.float64)
        self.num_windows = self.num_tokens = self.num_run = 0
        self._known: dict[str, dict[int, float]] = {}

    def __len__(self) -> int:
        """Return how many windows there are."""
        return len(self.windows)

    def totals(
        self, survivors: Mapping[str, Tensor], windows: Sequence[int] | None = None
    ) -> Tensor:
        """Return what some windows come to, summed over their places: lower is better.

        Args:
            survivors: one boolean tensor per community.
            windows: which; None for all.

        Returns:
            float64 ``[windows]``; infinite where it is not finite.
        """
        asked = range(len(self)) if windows is None else windows
        known = self._known.setdefault(key_of(survivors), {})
        if missing := [number for number in asked if number not in known]:
            self.num_run += not known
            known.update(self._run(survivors, missing))
        return torch.tensor([known[number] for number in asked], dtype=torch.float64)

    def seen(self, survivors: Mapping[str, Tensor]) -> list[int]:
        """Return the windows that a selection was run on, in the order in which it was."""
        return list(self._known.get(key_of(survivors), ()))

    def beaten(self, survivors: Mapping[str, Tensor], by: Mapping[str, Tensor]) -> bool:
        """Tell whether a selection is no better on the windows that another was run on, too."""
        own, other = (self._known.get(key_of(s), {}) for s in (survivors, by))
        both = own.keys() & other.keys()
        return bool(both) and not sum(own[n] for n in both) < sum(other[n] for n in both)

    def value(self, survivors: Mapping[str, Tensor], windows: Sequence[int] | None = None) -> float:
        """Return the mean over all judged places of some windows; of all by default."""
        asked = list(range(len(self)) if windows is None else windows)
        return float(self.totals(survivors, asked).sum() / self.places[asked].sum())

    def stand_on(self, survivors: Mapping[str, Tensor]) -> None:
        """Let selections that begin as this one does begin where they differ from it.

        What they come to is the same; it is only sooner there.
        """
        self.prefix.rebase(survivors)

    def state(self) -> dict[str, Any]:
        """Return what is known, as JSON holds it: None for what is infinite."""
        known = {
            key: [[n, v if v < float("inf") else None] for n, v in values.items()]
            for key, values in self._known.items()
        }
        return {"known": known, **{name: getattr(self, name) for name in COUNTS}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned."""
        self._known = {
            key: {int(n): float("inf") if v is None else float(v) for n, v in values}
            for key, values in state["known"].items()
        }
        for name in COUNTS:
            setattr(self, name, int(state[name]))

    def digest(self) -> str:
        """Return a digest of the windows and of how they are judged."""
        digest = hashlib.sha256(self.measure.encode())
        for window in self.windows:
            for tensor in tensors_of_inputs(window):
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        for rows in self._rows:
            digest.update(rows.numpy().tobytes())
        return digest.hexdigest()

    def _run(self, survivors: Mapping[str, Tensor], numbers: Sequence[int]) -> dict[int, float]:
        found = {}
        with (
            self._masking.masked(survivors) as (model, replaced),
            evaluating(model),
            without_cache(model),
            torch.no_grad(),
        ):
            head = None
            if self._head is not None and not any(n.startswith(f"{self._head}.") for n in replaced):
                last = model.get_submodule(self._head)
                assert isinstance(last, nn.Linear)
                head = last
            for number in numbers:
                with (
                    self.prefix.running(model, survivors, number),
                    nullcontext() if head is None else headless(model, self._head),
                ):
                    left = logits_of(run_model(model, self.windows[number], replaced))
                rows = self._rows[number].to(left.device)
                if head is None:
                    logits = classes_last(left).flatten(0, -2)[rows]
                else:
                    logits = F.linear(left.flatten(0, -2)[rows], head.weight, head.bias)
                value = self._judged(logits.float(), number)
                found[number] = value if value == value else float("inf")
                self.num_windows += 1
                self.num_tokens += len(rows)
        return found

    def _judged(self, logits: Tensor, number: int) -> float:
        """Return what the judged places of a window come to, from their logits ``[places, K]``."""
        if self.labels is not None:
            rows = self._rows[number]
            labels = self.labels[number].flatten()[rows].to(logits.device)
            if self.measure == "error":
                return float((logits.argmax(-1) != labels).sum())
            return float(F.cross_entropy(logits, labels, reduction="none").double().sum())
        assert self._dense is not None
        step = max(1, CHUNK // logits.shape[-1])
        total = 0.0
        for start in range(0, len(logits), step):
            part = slice(start, start + step)
            dense = self._dense(number, part)
            each = F.kl_div(logits[part].log_softmax(-1), dense, log_target=True, reduction="none")
            # Rounding makes the least divergences negative; a sum of them must not shrink.
            total += float(each.sum(-1).double().clamp_min(0.0).sum())
        return total

    def _there(self, number: int, window: Inputs) -> Tensor:
        """Return which places of a window count, flat: those with a label; those of no padding."""
        if self.labels is not None:
            found = (self.labels[number] != IGNORED).flatten()
            if not bool(found.any()):
                refuse("data", f"window {number} without a label that counts", "labels in each")
            return found
        shape = (len(tensors_of_inputs(window)[0]), *self._shape)
        mask = window.get("attention_mask") if isinstance(window, dict) else None
        if mask is None or mask.shape != shape:
            return torch.ones(shape, dtype=torch.bool).flatten()
        return (mask != 0).flatten().cpu()


def sampled(there: Tensor, most: int | None, *, seed: int) -> Tensor:
    """Return the numbers of places that are judged, rising: all that count, or some by chance.

    Args:
        there: which places count.
        most: how many at most; None for all.
        seed: which ones.

    Example:
        >>> sampled(torch.tensor([True, False, True]), None, seed=0)
        tensor([0, 2])
        >>> len(sampled(torch.ones(512, dtype=torch.bool), 128, seed=0))
        128
    """
    found = there.nonzero().flatten()
    if most is None or len(found) <= most:
        return found
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    return found[order[:most].sort().values]


def _places_of(model: nn.Module, inputs: Inputs) -> tuple[int, ...]:
    """Return the shape of the places of one sample, each of which is predicted; () for one."""
    with evaluating(model), without_cache(model), torch.no_grad():
        logits = classes_last(logits_of(run_model(model, inputs, {})))
    return tuple(logits.shape[1:-1])


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
