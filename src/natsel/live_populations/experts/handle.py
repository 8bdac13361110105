"""What a user holds while choices compete: how many experts are computed, and the end of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from natsel.common.errors import choose, refuse
from natsel.live_populations.attached import Attached
from natsel.live_populations.experts.session import Record, Session


class LiveExperts(Attached):
    """Fewer experts a token, from here to ``close()``.

    Everything it tells is of the last call of the model.
    """

    def __init__(self, session: Session, handles: list[RemovableHandle]) -> None:
        modules = [block.experts for block in session.blocks.values()]
        super().__init__(session.method.name, modules, handles)
        self._session = session

    def __repr__(self) -> str:
        name = self._session.method.name
        if not self._session.records:
            return f"LiveExperts({name}: no input yet)"
        share = self.num_held / max(self.num_seen, 1)
        return f"LiveExperts({name}: {self.num_held:,} of {self.num_seen:,} choices, {share:.1%})"

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers in which tokens choose experts."""
        return tuple(self._session.blocks)

    def held(self, layer: int) -> Tensor:
        """Return how many experts each token kept, ``[tokens]``, in the order of the batch."""
        return self._record(layer).kept.sum(-1)

    def experts(self, layer: int) -> Tensor:
        """Return which experts each token kept, ``[tokens, chosen]``; -1 for who left."""
        record = self._record(layer)
        return torch.where(record.kept, record.experts, -1)

    @property
    def num_held(self) -> int:
        """Choices that were computed, over all layers, without those of padding."""
        records = self._session.records.values()
        return sum(int(r.kept[r.tokens].sum()) for r in records)

    @property
    def num_seen(self) -> int:
        """Choices that the routers made, over all layers, without those of padding."""
        records = self._session.records.values()
        return sum(int(r.tokens.sum()) * r.kept.shape[1] for r in records)

    def _record(self, layer: int) -> Record:
        choose("layer", str(layer), map(str, self.layers))
        if layer not in self._session.records:
            raise ValueError("nothing is held: expected a call of the model before")
        return self._session.records[layer]


def refuse_twice(session: Session, told: str) -> None:
    """Refuse a model whose choices compete already.

    Raises:
        ValueError: if a method is at work.
    """
    for block in session.blocks.values():
        if (name := LiveExperts.method_in(block.experts)) is not None:
            allowed = f"a model whose choices no other method thins: close() that of {name!r}"
            refuse("model", told, allowed)
