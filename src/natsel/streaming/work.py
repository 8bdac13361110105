"""All that the passes over the blocks of a folder share, and what is made of it before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from natsel.blockwise import Chain, Feed, Held, Place, chains_of, feed
from natsel.blockwise.alone import BLOCK, Alone
from natsel.blockwise.residency import Residency
from natsel.common.batches import Data
from natsel.common.calls import first_samples
from natsel.common.errors import refuse
from natsel.common.progress import Progress
from natsel.common.vocabulary import check_tokens
from natsel.features import FeatureClass
from natsel.fitness import Fitness
from natsel.integrations.transformers import example_inputs
from natsel.integrations.transformers.streamed import Folder
from natsel.selection import Sparsity
from natsel.streaming.found import Found, find
from natsel.streaming.ledger import PROGRESS, Ledger
from natsel.streaming.worth import HeldOut, entering_states


@dataclass(frozen=True, eq=False)
class Options:
    """How to select.

    Attributes:
        budget: what must be reached.
        fitness: the scorer; of a feature class, the statistic whose rank it reads.
        features: the feature class; None with any other scorer.
        options: of :func:`natsel.select`.
        compensate: whether survivors take over.
    """

    budget: Any
    fitness: Fitness
    features: FeatureClass | None
    options: dict[str, Any]
    compensate: bool

    @property
    def in_one_pass(self) -> bool:
        """Whether each block can be decided about without the others."""
        alone = isinstance(self.options["floor"], int) and self.features is None
        return isinstance(self.budget, Sparsity) and self.options["scope"] == "community" and alone


@dataclass(frozen=True, eq=False)
class Work:
    """All that the passes over the blocks share."""

    chain: Chain
    residency: Residency
    found: Found
    feeds: list[Feed]
    held_out: HeldOut | None
    probe: Feed
    ledger: Ledger
    options: Options
    folder: Folder
    progress: Progress

    def place(self, number: int, block: nn.Module) -> Place:
        """Return a block of the dense model with what enters it there."""
        alone = Alone(block, self.probe, number)
        store = self.ledger.store(f"dense-{number}")
        return Place(number, BLOCK, block, alone, self.feeds, store)


def prepared(
    folder: Folder,
    batches: Data | None,
    held_out: Data | None,
    ledger: Ledger,
    options: Options,
    progress: Progress,
) -> Work:
    """Find chain and communities, and run all that comes before the chain."""
    mode, fake = folder.fake()
    model = folder.empty()
    check_tokens(model, batches or (), "data")
    check_tokens(model, held_out or (), "held_out")
    inputs: Any = first_samples(example_inputs(model), 1)
    with mode:
        given: Any = {name: mode.from_tensor(x) for name, x in inputs.items()}
        chains = chains_of(fake, given)
    if len(chains) != 1:
        told = f"{folder.path} with {len(chains)} chains of blocks"
        refuse("model", told, "a model whose blocks form one chain")
    chain = chains[0]
    residency = Residency(model, folder)
    done = ledger.read(PROGRESS)
    states = ledger.store("dense-0") if _needs_states(done) else Held()
    probe_state = Held()
    with residency.when_called(chain.paths):
        (probe,) = feed(model, chain, [inputs], probe_state)
        feeds = feed(model, chain, batches, states) if batches is not None else []
        held = None
        if held_out is not None:
            entering = entering_states(ledger, needed=_needs_states(done))
            held = HeldOut.entering(model, chain, held_out, entering)
    if done is None:
        ledger.store("probe").put(0, probe_state.get(0))
    found = find(folder.shapes_alone(), inputs, chain, residency, probe, probe_state.get(0))
    found.communities.require("model", str(folder.path))
    return Work(chain, residency, found, feeds, held, probe, ledger, options, folder, progress)


def _needs_states(done: Any) -> bool:
    """Say whether what enters the first block is read again."""
    return done is None or done["phase"] == "score" or done["block"] == 0
