"""One block after the other, with what enters it at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from natsel.blockwise.chain import Chain
from natsel.blockwise.feed import Feed, feed
from natsel.blockwise.store import Held, Store
from natsel.common.batches import Data
from natsel.common.modes import evaluating
from natsel.common.padding import padded


@dataclass(frozen=True, eq=False)
class Place:
    """A block, with what enters it.

    Attributes:
        number: of the block in the chain.
        path: of the block in the model.
        block: the module.
        model: that holds it.
        feeds: what each batch gives it besides the hidden state.
        store: the hidden states that enter it, by the number of the batch.
    """

    number: int
    path: str
    block: nn.Module
    model: nn.Module
    feeds: list[Feed]
    store: Store
    _ahead: set[int] = field(default_factory=set)

    def one(self, number: int) -> Tensor:
        """Run the block on one batch, for its hooks, and return what it returns."""
        each = self.feeds[number]
        with evaluating(self.block), torch.no_grad(), padded(self.model, each.inputs):
            return each.run(self.number, self.block, self.store.get(number))

    def run(self) -> Iterator[Tensor]:
        """Run the block over all batches, for its hooks; yield what it returns for each."""
        for number in range(len(self.feeds)):
            yield self.one(number)

    def look(self) -> None:
        """Run the block over all batches, for its hooks alone."""
        for _ in self.run():
            pass

    def ahead(self, number: int) -> None:
        """Run the block on one batch, for its hooks; :meth:`leave` need not run it again.

        What entered the block stays at hand until it is left. It must not change in between.
        """
        self.store.put(len(self.feeds) + number, self.one(number))
        self._ahead.add(number)

    def leave(self, onward: Store | None = None) -> None:
        """Run the block over all batches; what it returns enters the next one.

        Args:
            onward: gets what leaves; in place of what entered if not given.
        """
        for number in range(len(self.feeds)):
            ran = number in self._ahead
            hidden = self.store.get(len(self.feeds) + number) if ran else self.one(number)
            (self.store if onward is None else onward).put(number, hidden)


def walk(
    model: nn.Module, chain: Chain, data: Data, *, store: Store | None = None
) -> Iterator[Place]:
    """Go through a chain: each block may be looked at, and changed, before it is left.

    What comes before the chain runs once, each block once to be left and once for each look at it.
    The places of two models can be taken in turn: ``zip(walk(...), walk(...))``.

    Args:
        model: whose blocks they are.
        chain: of the model, see :func:`natsel.blockwise.chains_of`.
        data: batches; read once.
        store: of the hidden states; in memory by default.

    Yields:
        Each block; it is left when the next one is asked for.

    Example:
        >>> from natsel.blockwise import chains_of
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        >>> with torch.no_grad():
        ...     for layer in model:
        ...         _ = layer.weight.fill_(3.0)
        >>> x = torch.ones(1, 1)
        >>> [place.store.get(0).item() for place in walk(model, chains_of(model, (x,))[0], [(x,)])]
        [1.0, 3.0]
    """
    held = Held() if store is None else store
    feeds = feed(model, chain, data, held)
    for number, path in enumerate(chain.paths):
        place = Place(number, path, model.get_submodule(path), model, feeds, held)
        yield place
        if number + 1 < len(chain):
            place.leave()
