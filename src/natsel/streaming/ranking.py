"""The pass that scores, and what is selected once all blocks are scored."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from natsel.blockwise import Place
from natsel.blockwise.alone import BLOCK
from natsel.features import fuse, matrices
from natsel.fitness.score import Scores
from natsel.selection import Survivors
from natsel.selection.select import select
from natsel.streaming.ledger import PROGRESS
from natsel.streaming.scoring import scored
from natsel.streaming.work import Work


def score(work: Work) -> None:
    """Go through the dense model once, and note the scores of each block."""
    done = work.ledger.read(PROGRESS)
    if done is not None and done["phase"] != "score":
        return
    fitness, count = work.options.fitness, len(work.chain)
    for number in range(done["block"] if done is not None else 0, count):
        work.progress("prune: score blocks", number, count)
        with work.residency.resident(work.chain.paths[number]) as block:
            values = scores_of(work, number, block, idle=fitness.statistic is None)
        work.ledger.note(f"scores-{number}", {n: v.tolist() for n, v in values.items()})
        work.ledger.note(PROGRESS, {"phase": "score", "block": number + 1, "shards": []})
        if number:
            work.ledger.forget(f"dense-{number}")
    work.ledger.forget(f"dense-{count}")
    work.ledger.note(PROGRESS, {"phase": "cut", "block": 0, "shards": []})


def scores_of(work: Work, number: int, block: nn.Module, *, idle: bool) -> dict[str, Tensor]:
    """Score one block; unless nobody needs them, hidden states go on to the next."""
    place = work.place(number, block)
    if idle:
        place = Place(place.number, BLOCK, block, place.model, [], place.store)
    local = work.found.local[number]
    known = work.found.alone(number, place.model, work.ledger.store("probe").get(0))
    onward = work.ledger.store(f"dense-{number + 1}")
    values = scored(
        known, work.options.fitness, place, onward, list(local), work.chain.paths[number]
    )
    return dict(zip(local, values, strict=True))


def selected(work: Work) -> Survivors:
    """Select over all communities, once all are scored."""
    found: dict[str, Tensor] = {}
    for number in range(len(work.chain)):
        noted = work.ledger.read(f"scores-{number}")
        found |= {name: torch.tensor(values) for name, values in noted.items()}
    scores: Mapping[str, Tensor] = Scores(found, work.found.communities)
    if work.options.features is not None:
        scores = fuse(matrices(scores, work.options.features.features))
    return select(
        scores,
        work.options.budget,
        communities=work.found.communities,
        **work.options.options,
    )
