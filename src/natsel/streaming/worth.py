"""What a model is worth on held-out data, dense and cut, while it is walked block by block.

Held-out batches go through both models beside the calibration data, never into a score or a fit.
What leaves the last block is handed to what follows it; logits are made for a few places at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.blockwise import Chain, Feed, Held, Place, Store, feed, handing_on
from natsel.blockwise.alone import BLOCK
from natsel.blockwise.residency import Residency
from natsel.common.batches import Data, read_batch
from natsel.common.calls import Inputs, call, logits_of, taken, without_cache
from natsel.common.errors import refuse
from natsel.common.modes import evaluating
from natsel.quality import Losses, Measure, Quality, measure_for, quality_of
from natsel.quality.head import ROOM, head_of, headless
from natsel.quality.losses import compared, counted_alone
from natsel.streaming.ledger import Ledger

DENSE, SMALL = "held-dense", "held-small"
"""What enters a block of each model on held-out data, with the number of the block behind."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out batches, ready to be walked.

    Attributes:
        batches: with labels.
        labels: of each batch, in the place of the output that predicts them.
        feeds: what each batch gives to each block besides the hidden state.
        measure: how a model is judged on them.
    """

    batches: Data
    labels: list[Tensor]
    feeds: list[Feed]
    measure: Measure

    @classmethod
    def entering(cls, model: nn.Module, chain: Chain, batches: Data, store: Store) -> HeldOut:
        """Run held-out batches up to a chain; what enters its first block goes into a store.

        Raises:
            ValueError: if there is no batch, or one has no labels of whole numbers.
        """
        measure = measure_for(model, batches)
        labels = [read_batch(batch).targets(model) for batch in batches]
        if any(not isinstance(x, Tensor) or x.is_floating_point() for x in labels):
            refuse("held_out", "batches without whole-number labels", "labels in every batch")
        return cls(batches, labels, feed(model, chain, batches, store), measure)

    def through(self, dense: Place, small: nn.Module, inner: nn.Module, ledger: Ledger) -> None:
        """Walk both models over one block: what leaves it enters the next one."""
        number = dense.number
        for name, model, block in ((DENSE, dense.model, dense.block), (SMALL, small, inner)):
            entering = ledger.store(f"{name if number else DENSE}-{number}")
            place = Place(number, BLOCK, block, model, self.feeds, entering)
            place.leave(ledger.store(f"{name}-{number + 1}"))

    def measured(
        self, residency: Residency, chain: Chain, probe: Inputs, ledger: Ledger
    ) -> tuple[Losses, Losses]:
        """Return what the dense and the small model lose, once both left the last block."""
        count = len(chain)
        stores = [ledger.store(f"{name}-{count}") for name in (DENSE, SMALL)]
        last = ledger.store("probe").get(count)
        dense, small = _lost(residency, chain, self, stores, (probe, last))
        return dense, small

    def quality(self, dense: Losses, small: Losses) -> Quality:
        """Return what both are worth, with the paired interval over windows."""
        return quality_of(small, dense, measure=self.measure)


def entering_states(ledger: Ledger, *, needed: bool) -> Store:
    """Return where what enters the first block is held; nowhere for long if nobody reads it."""
    return ledger.store(f"{DENSE}-0") if needed else Held()


def plain(found: Losses) -> dict[str, list[float]]:
    """Return losses as plain data."""
    return {name: each.tolist() for name, each in found._asdict().items()}


def from_plain(data: dict[str, list[float]]) -> Losses:
    """Return the losses that :func:`plain` gave."""
    total = torch.tensor(data["total"], dtype=torch.float64)
    return Losses(total, *(torch.tensor(data[n]).long() for n in ("counted", "correct")))


def _lost(
    residency: Residency,
    chain: Chain,
    held: HeldOut,
    stores: list[Store],
    probe: tuple[Inputs, Tensor],
) -> list[Losses]:
    """Run what follows a chain on what left it, for each store, sample by sample."""
    model = residency.model
    found: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in stores]
    with _following(residency, chain):
        inputs, last = probe
        with handing_on(model, chain, left=last):
            path = head_of(model, inputs)
        for number, labels in enumerate(held.labels):
            for into, store in zip(found, stores, strict=True):
                hidden = store.get(number)
                for row in range(len(labels)):
                    rows = slice(row, row + 1)
                    given = taken(held.feeds[number].inputs, rows)
                    with handing_on(model, chain, left=hidden[rows]), headless(model, path):
                        out = logits_of(call(model, given))
                    into.append(_of_one(model, path, out, labels[rows]))
    return [
        counted_alone(Losses(*(torch.cat([p[i] for p in parts]) for i in range(3))))
        for parts in found
    ]


@contextmanager
def _following(residency: Residency, chain: Chain) -> Iterator[None]:
    model = residency.model
    loaded = residency.when_called(chain.paths)
    with evaluating(model), without_cache(model), torch.no_grad(), loaded:
        yield


def _of_one(
    model: nn.Module, path: str | None, out: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare one sample with its labels; places of a text go through the last layer in parts."""
    if path is None:
        return compared(out, labels.to(out.device))
    head: Any = model.get_submodule(path)
    if labels.dim() != 2 or out.shape[:-1] != labels.shape:
        return compared(F.linear(out, head.weight, head.bias), labels.to(out.device))
    size = max(1, ROOM // (4 * head.out_features))
    parts = [
        compared(F.linear(each, head.weight, head.bias), wanted.to(each.device))
        for each, wanted in zip(
            torch.split(out, size, 1), torch.split(labels, size, 1), strict=True
        )
    ]
    total, counted, correct = (torch.stack([p[i] for p in parts]).sum(0) for i in range(3))
    return total, counted, correct
