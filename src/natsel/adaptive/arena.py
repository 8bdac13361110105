"""The arena: what many selections are worth on the same samples, and nothing done twice.

Where a sample has one label, what counts is whether it is predicted rightly. Where it has many, as
a window of a text has, it is the mean loss over them: no window of 512 tokens is all right.
Without labels it is agreement with what the dense model predicts, of a sample or of its places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from natsel.common.calls import (
    IGNORED,
    LABELLED,
    Inputs,
    call,
    logits_of,
    taken,
    tensors_of_inputs,
    with_tensors,
    without_cache,
)
from natsel.common.errors import refuse
from natsel.common.modes import evaluating
from natsel.communities import Communities, Community
from natsel.communities.gates.gates import folded
from natsel.communities.kinds import kind_of
from natsel.communities.surgery.surgery import cut, kept_indices, silence
from natsel.communities.tensors import owner, tensors_of
from natsel.quality import losses
from natsel.quality.losses import ROOM, run_model

BATCH = 500
Measure = Literal["accuracy", "loss", "agreement"]


def key_of(survivors: Mapping[str, Tensor]) -> str:
    """Return a digest that two selections share if, and only if, the same populations survive.

    Example:
        >>> key_of({"a": torch.tensor([True, False])}) == key_of({"a": torch.tensor([1, 0])})
        True
    """
    digest = hashlib.sha256()
    for name in sorted(survivors):
        digest.update(name.encode() + b"\\0")
        digest.update(survivors[name].to(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


class Arena:
    """Runs selections on one set of samples and remembers what each was worth on each sample.

    A selection costs one forward pass over the samples it is asked for: the weights of what
    survives are cut out and the model runs on them, without a copy of the model. Where a module
    cannot run on fewer populations, the weights that read the removed ones are zero instead. The
    samples' order is fixed, so that two selections are compared on the same ones.

    Args:
        communities: what selections are of; the model is not changed.
        inputs: ``[N, ...]``, samples; or several such tensors, in a tuple or by their names.
        labels: ``[N]``, classes, or ``[N, T]`` with one for each place (-100: none), beside the
            output that predicts it; or None, to compare with what the dense model predicts.
        batch_size: samples at once, where one has one label; with more, as many as their logits
            leave room for.

    Attributes:
        measure: what a sample is worth: "accuracy" (1 if it is right, 0 if not; without labels if
            it agrees), "loss" (minus the mean loss over its labels) or "agreement" (the share of
            its places that are predicted as the dense model predicts them).
        num_images: how many samples were run, over all selections.
        num_asked: how many would have been run without any memory.

    Raises:
        ValueError: if the samples are empty, or labels and inputs do not go together.
    """

    def __init__(
        self,
        communities: Communities,
        inputs: Tensor | Inputs,
        labels: Tensor | None = None,
        *,
        batch_size: int = BATCH,
    ) -> None:
        self.inputs: Inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
        if len(self) == 0:
            refuse("inputs", "no samples", "at least one")
        if labels is not None and len(labels) != len(self):
            refuse("labels", len(labels), f"as many as there are inputs, {len(self)}")
        if batch_size < 1:
            refuse("batch_size", batch_size, "a whole number >= 1")
        self.communities = communities
        self.batch_size = batch_size
        self.num_images = 0
        self.num_asked = 0
        self._model = folded(communities.model)
        self._tensors = tensors_of(self._model)
        self._known: dict[str, Tensor] = {}
        self._cuts = all(runs_cut(self._model, c) for c in communities.values())
        if labels is None:
            labels, several = self._dense()
            self.measure: Measure = "agreement" if several else "accuracy"
        else:
            self.measure = "loss" if labels.dim() > 1 else "accuracy"
        self.labels = labels
        if self.measure != "accuracy" and not bool(_counted(labels).all()):
            refuse("labels", "samples without a label that counts", LABELLED)

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(tensors_of_inputs(self.inputs)[0])

    @property
    def least(self) -> int:
        """How many samples a race needs to see before it stops anyone."""
        return 1 if self.measure == "accuracy" else 4

    def values(self, survivors: Mapping[str, Tensor], stop: int | None = None) -> Tensor:
        """Return what the first samples are worth with what survives; see ``measure``.

        Args:
            survivors: one boolean tensor per community.
            stop: how many samples; None for all.

        Returns:
            float64 ``[stop]``, higher is better.
        """
        return self._seen(survivors, stop).double()

    def correct(self, survivors: Mapping[str, Tensor], stop: int | None = None) -> Tensor:
        """Return which of the first samples are predicted rightly by what survives.

        Args:
            survivors: one boolean tensor per community.
            stop: how many samples; None for all.

        Returns:
            bool ``[stop]``.

        Raises:
            ValueError: if samples are worth more than right or wrong.
        """
        if self.measure != "accuracy":
            refuse("labels", f"several a sample ({self.measure})", "one a sample; see values()")
        return self._seen(survivors, stop)

    def _seen(self, survivors: Mapping[str, Tensor], stop: int | None) -> Tensor:
        stop = len(self) if stop is None else min(stop, len(self))
        key = key_of(survivors)
        known = self.known(survivors)
        self.num_asked += stop
        if len(known) < stop:
            start = len(known)
            fresh = self._run(survivors, start, stop)
            known = torch.cat((known, fresh)) if start else fresh
            self._known[key] = known
            self.num_images += stop - start
        return known[:stop]

    def known(self, survivors: Mapping[str, Tensor]) -> Tensor:
        """Return what is known already of a selection, without running anything."""
        return self._known.get(key_of(survivors), torch.zeros(0, dtype=torch.bool))

    def accuracy(self, survivors: Mapping[str, Tensor]) -> float:
        """Return the share of all samples that are predicted rightly by what survives."""
        return float(self.correct(survivors).double().mean())

    def value(self, survivors: Mapping[str, Tensor]) -> float:
        """Return the mean of :meth:`values` over all samples."""
        return float(self.values(survivors).mean())

    def dense(self) -> Tensor:
        """Return which samples the whole model predicts rightly, bool ``[N]``."""
        return self.correct(self.communities.full())

    def predicted_classes(self) -> list[int]:
        """Return the classes that the whole model predicts at least once."""
        return sorted({int(c) for c in self._predicted().flatten()})

    def _predicted(self) -> Tensor:
        return self._dense()[0]

    def _dense(self) -> tuple[Tensor, bool]:
        """Return what the whole model predicts, and whether it is more than one class a sample."""
        with evaluating(self._model), without_cache(self._model), torch.no_grad():
            one = logits_of(call(self._model, taken(self.inputs, slice(0, 1))))
            several = one.dim() > 2
            # Of images the classes come second, of sequences last.
            axis = 1 if one.dim() > 3 else -1
            rows = rows_of(one) if several else self.batch_size
            parts = [
                logits_of(call(self._model, x)).argmax(axis) for x in _batches(self.inputs, rows)
            ]
        classes = torch.cat(parts)
        mask = self.inputs.get("attention_mask") if isinstance(self.inputs, dict) else None
        if several and mask is not None and mask.shape == classes.shape:
            classes = classes.masked_fill(mask.to(classes.device) == 0, IGNORED)
        return classes, several

    def _run(self, survivors: Mapping[str, Tensor], start: int, stop: int) -> Tensor:
        inputs, labels = taken(self.inputs, slice(start, stop)), self.labels[start:stop]
        model, replaced = self._masked(survivors)
        if self.measure != "accuracy":
            given = (inputs,) if isinstance(inputs, dict) else inputs
            found = losses(model, [(*given, labels)], replaced=replaced)
            if self.measure == "loss":
                return -found.means
            return found.correct.double() / found.counted
        parts = []
        with evaluating(model), torch.no_grad():
            for x, y in zip(
                _batches(inputs, self.batch_size),
                torch.split(labels, self.batch_size),
                strict=True,
            ):
                right = logits_of(run_model(model, x, replaced)).argmax(-1) == y
                parts.append(right | (y == IGNORED))
        return torch.cat(parts).cpu()

    def _masked(self, survivors: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
        found = self.communities.values()
        if self._cuts:
            kept = kept_indices(found, survivors, self._tensors)
            return self._model, {n: cut(self._tensors[n], axes) for n, axes in kept.items()}
        if any(p.role == "route" for c in found for p in c.slices):
            return silence(self._model, found, survivors, share=True), {}
        return self._model, _zeroed(found, survivors, self._tensors)


def rows_of(logits: Tensor) -> int:
    """Return how many samples run at once, by the logits of some."""
    return max(1, ROOM * len(logits) // max(1, logits.element_size() * logits.numel()))


def _counted(labels: Tensor) -> Tensor:
    """Return which samples have a label that counts, bool ``[N]``."""
    return (labels != IGNORED).flatten(1).any(1)


def _batches(inputs: Inputs, size: int) -> list[Inputs]:
    parts = [torch.split(x, size) for x in tensors_of_inputs(inputs)]
    return [with_tensors(inputs, each) for each in zip(*parts, strict=True)]


def _zeroed(
    communities: Sequence[Community] | Any,
    survivors: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return the weights that read removed populations, with those columns zero."""
    changed: dict[str, Tensor] = {}
    for community in communities:
        dead = ~survivors[community.name].cpu() if community.name in survivors else None
        if dead is None or not bool(dead.any()):
            continue
        for part in community.silenced:
            if part.tensor not in changed:
                changed[part.tensor] = tensors[part.tensor].detach().clone()
            weight = changed[part.tensor]
            weight.index_fill_(part.axis, part.index[dead].reshape(-1).to(weight.device), 0)
    return changed


def runs_cut(model: nn.Module, community: Community) -> bool:
    """Tell whether the modules of a community run on fewer populations without being changed."""
    if not kind_of(community.kind).plain or community.rebindings:
        return False
    for part in community.slices:
        module, _ = owner(model, part.tensor)
        if type(module).forward not in _FORWARDS or getattr(module, "groups", 1) != 1:
            return False
    return True


_FORWARDS = (
    nn.Linear.forward,
    nn.Conv1d.forward,
    nn.Conv2d.forward,
    nn.Conv3d.forward,
    nn.BatchNorm1d.forward,
)
