"""By how much the loss grows without a branch: each is taken out by itself, and put back.

Blocks before the one that a branch is in compute what they did: they are not run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from natsel.blockwise import Chain, begun, chains_of, walk
from natsel.common.batches import Data, inputs_for, read_batch
from natsel.common.calls import LABELLED, cross_entropy, has_labels
from natsel.common.errors import refuse
from natsel.common.modes import evaluating
from natsel.common.padding import padded
from natsel.common.sharding.local import local
from natsel.common.sharding.wrapping import Spread, spread_of
from natsel.communities import Communities
from natsel.communities.branches.branch import Branch
from natsel.communities.tensors import tensors_of
from natsel.fitness.depth.registry import BRANCH_SCORERS, BranchScorer, Criterion
from natsel.quality import losses

Sums = tuple[float, float]
"""A summed loss, and over how many labels or batches."""


def loss(communities: Communities, data: Data, criterion: Criterion) -> dict[str, Tensor]:
    """Return by how much the loss grows when the branch is out, one pass each: ``[size]``.

    Args:
        communities: of branches.
        data: batches with labels; held in memory.
        criterion: the loss.
    """
    model, batches = communities.model, list(data)
    if not batches:
        refuse("data", "empty", "at least one batch")
    branches = [b for community in communities.values() for b in community.branches]
    whole = _mean([_sums(model, batch, criterion, ()) for batch in batches])
    spread = spread_of(model)
    found = {} if spread is not None else _along_a_chain(model, batches, branches, criterion)
    for branch in branches:
        if branch.name in found:
            continue
        if spread is None:
            sums = [_sums(model, batch, criterion, branch.gates) for batch in batches]
        else:
            with _zeroed(model, branch.gates, spread):
                sums = [_sums(model, batch, criterion, ()) for batch in batches]
        found[branch.name] = _mean(sums)
    return {
        name: torch.tensor([found[b.name] - whole for b in community.branches]).double()
        for name, community in communities.items()
    }


def _along_a_chain(
    model: nn.Module, batches: Sequence[Any], branches: Sequence[Branch], criterion: Criterion
) -> dict[str, float]:
    """Return the loss without each branch that is in a block of a chain of blocks."""
    chains = chains_of(model, inputs_for(model, batches[0]))
    inside = {c: [b for b in branches if _block_of(b, c) is not None] for c in chains}
    # What a block returns besides the hidden state would have to be known, too.
    inside = {c: held for c, held in inside.items() if held and not any(c.arity)}
    if not inside:
        return {}
    chain = max(inside, key=lambda c: len(inside[c]))
    found: dict[str, float] = {}
    for place in walk(model, chain, batches):
        for branch in (b for b in inside[chain] if _block_of(b, chain) == place.number):
            sums = []
            for number, batch in enumerate(batches):
                with begun(model, chain, place.number, place.store.get(number)):
                    sums.append(_sums(model, batch, criterion, branch.gates))
            found[branch.name] = _mean(sums)
    return found


def _block_of(branch: Branch, chain: Chain) -> int | None:
    held = f"{branch.holder}."
    return next((n for n, path in enumerate(chain.paths) if held.startswith(f"{path}.")), None)


def _sums(model: nn.Module, batch: Any, criterion: Criterion, closed: Sequence[str]) -> Sums:
    """Return the loss of a batch with some tensors 0; (0, 0) where no label counts."""
    tensors = tensors_of(model)
    replaced = {name: torch.zeros_like(tensors[name]) for name in closed}
    held = read_batch(batch)
    labels = held.targets(model)
    if not has_labels(labels, criterion):
        return 0.0, 0
    if criterion is cross_entropy and labels.dtype == torch.long:
        found = losses(model, [batch], replaced=replaced)
        return float(found.total.sum()), int(found.counted.sum())
    inputs = held.given(model)
    args, named = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    with evaluating(model), torch.no_grad(), padded(model, inputs):
        return float(criterion(functional_call(model, replaced, args, named), labels)), 1


@contextmanager
def _zeroed(model: nn.Module, names: Sequence[str], spread: Spread) -> Iterator[None]:
    """Let shares of tensors be 0 for a while: what forward reads is gathered from them alone."""
    spread.settle()
    tensors = tensors_of(model)
    before = [(local(tensors[name]), local(tensors[name]).clone()) for name in names]
    try:
        for share, _ in before:
            share.zero_()
        yield
    finally:
        spread.settle()
        for share, value in before:
            share.copy_(value)


def _mean(sums: Sequence[Sums]) -> float:
    count = sum(n for _, n in sums)
    if not count:
        refuse("data", "no sample with a label", LABELLED)
    return sum(each for each, _ in sums) / count


BRANCH_SCORERS.add("loss", BranchScorer("loss", loss))
