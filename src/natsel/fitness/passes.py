"""Passes over the data for several signals at once: one with gradients, one without.

They are two and not one because a forward pass that records gradients may take other kernels than
one that does not: what enters a consumer would then differ in its last digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from natsel.blockwise import Held, feed, walk
from natsel.common.batches import Batch, Data, inputs_for, read_batch
from natsel.common.calls import LABELLED, call, has_labels
from natsel.common.errors import refuse
from natsel.common.modes import evaluating
from natsel.common.sharding.reducing import device_of
from natsel.common.sharding.wrapping import settle, spread_of
from natsel.communities import Communities
from natsel.communities.gates.gating import gated_slices
from natsel.communities.tensors import tensors_of
from natsel.fitness.backward import Criterion, backward_of
from natsel.fitness.in_blocks import Blocks, blocks_of, examples
from natsel.fitness.of_shares import OfShares, in_step
from natsel.fitness.parts import PartsReader, Watch, readers_of
from natsel.fitness.pooling import added_up
from natsel.fitness.registry import Fitness

PRODUCTS = "products"
Values = list[Tensor]
"""One tensor per community, in order."""


def without_data(
    fitnesses: Sequence[Fitness], reader: PartsReader, masses: Sequence[Tensor]
) -> list[Values]:
    """Return what signals of weights alone say.

    Args:
        fitnesses: signals that read no data.
        reader: of the communities.
        masses: of each community.
    """
    with torch.no_grad():
        by_sums = all(f.by_sums for f in fitnesses)
        parts = [reader.read(i, m, lambda _: None, by_sums=by_sums) for i, m in enumerate(masses)]
        return [[f.signal(p) for p in parts] for f in fitnesses]


def by_gradient(
    communities: Communities,
    fitnesses: Sequence[Fitness],
    reader: PartsReader,
    masses: Sequence[Tensor],
    data: Data,
    criterion: Criterion,
    group: Any = None,
) -> list[Values]:
    """Return what signals of gradients say, averaged over batches: one pass for all.

    Args:
        communities: their model runs in evaluation mode; its ``.grad`` fields stay as they are.
        fitnesses: signals that read gradients.
        reader: of the communities.
        masses: of each community.
        data: batches with labels.
        criterion: the loss.
        group: processes that read other batches each, over all of which it is averaged.

    Raises:
        ValueError: if no batch has a label that counts.
    """
    sums: list[Values] = []
    count, num_batches = 0, 0
    model, spread = communities.model, spread_of(communities.model)
    found: list[dict[int, Tensor]] = []

    def take(
        positions: Sequence[int],
        gradients: Mapping[int, Tensor],
        weights: Mapping[int, Tensor] | None = None,
    ) -> None:
        device = next(iter(gradients.values())).device
        weight = None if weights is None else partial(_look_up, weights)
        with torch.no_grad():
            for i in positions:
                look_up = partial(_look_up, gradients)
                parts = reader.read(i, masses[i].to(device), look_up, weight=weight)
                for fitness, values in zip(fitnesses, found, strict=True):
                    values[i] = fitness.signal(parts)
                del parts

    def labelled() -> Iterator[tuple[Any, Batch, Any]]:
        nonlocal num_batches
        for batch in data:
            held = read_batch(batch)
            labels = held.targets(model)
            num_batches += 1
            if has_labels(labels, criterion):
                yield batch, held, labels

    with evaluating(model), _differentiable(reader.weights()), torch.enable_grad():
        shares = None if spread is None else OfShares(communities, reader, criterion, spread)
        backward = backward_of(communities, reader, criterion) if spread is None else None
        group_in_step = None if spread is None else spread.group
        for given in in_step(labelled(), group_in_step, device_of(group_in_step)):
            found = [{} for _ in fitnesses]
            if given is None:
                assert shares is not None
                shares.idle()
                continue
            batch, held, labels = given
            if shares is not None:
                shares(held.given(model), labels, take)
            else:
                assert backward is not None
                for positions, gradients in backward(batch, held.given(model), labels):
                    take(positions, gradients)
                    del gradients
            ordered = [[values[i] for i in range(len(masses))] for values in found]
            sums = [_added(*pair) for pair in zip(sums, ordered, strict=True)] if sums else ordered
            count += 1
    if group is not None:
        sums, count = added_up(sums, len(fitnesses), masses, count, group)
    if not count:
        if not num_batches:
            refuse("data", "empty", "at least one batch")
        refuse("data", "no sample with a label", LABELLED)
    return [[s / count for s in values] for values in sums]


def by_activation(
    communities: Communities,
    fitnesses: Sequence[Fitness],
    reader: PartsReader,
    masses: Sequence[Tensor],
    data: Data,
    group: Any = None,
) -> list[Values]:
    """Return what signals of activations say: one forward pass for all of their statistics.

    Products of all pairs of places are large. Where all communities lie in a chain of blocks, and
    what stands between blocks takes less room, the blocks are taken one by one, and the products
    of one block alone are there. The numbers are the same.

    Args:
        communities: their model runs in evaluation mode, without gradients.
        fitnesses: signals that read a statistic of activations.
        reader: of the communities.
        masses: of each community.
        data: batches.
        group: processes that read other batches each, over all of which statistics are taken.

    Raises:
        ValueError: if a consumer cannot be watched, or there is no batch.
    """
    asked: dict[str, list[int]] = {}
    for i, fitness in enumerate(fitnesses):
        assert fitness.statistic is not None
        asked.setdefault(fitness.statistic, []).append(i)
    # In several processes, statistics are added up when all of the model has run.
    spread = spread_of(communities.model)
    alone = group is None and spread is None
    blocks = _one_by_one(communities, data) if PRODUCTS in asked and alone else None
    watches: dict[str, Watch] = {}
    count = 0
    try:
        for statistic, places in asked.items():
            name = fitnesses[places[0]].name
            watches[statistic] = Watch(communities, statistic, asked=f"scorer={name!r}")
        if blocks is not None:
            return _in_blocks(communities, fitnesses, reader, masses, data, asked, watches, blocks)
        with evaluating(communities.model), torch.no_grad():
            together = None if spread is None else spread.group
            for batch in in_step(data, together, device_of(together)):
                if batch is None:
                    # It runs for the others alone.
                    for watch in watches.values():
                        watch.close()
                    call(communities.model, examples(communities))
                    continue
                call(communities.model, inputs_for(communities.model, batch))
                count += 1
        if not count and group is None:
            refuse("data", "empty", "at least one batch")
        if group is None and not all(watch.has_seen for watch in watches.values()):
            refuse("data", "no sample in any batch", "at least one sample")
        found: dict[int, Values] = {}
        for statistic, places in asked.items():
            watch, wanted = watches.pop(statistic), [fitnesses[i] for i in places]
            found |= zip(places, _of_statistics(watch, wanted, reader, masses, group), strict=True)
        return [found[i] for i in range(len(fitnesses))]
    finally:
        settle(communities.model)
        for watch in watches.values():
            watch.close()


def _one_by_one(communities: Communities, data: Data) -> Blocks | None:
    """Return the blocks that are taken one by one, or None where all are looked at at once."""
    if not isinstance(data, Sequence) or not data:
        return None  # what is read twice may be something else then
    readers = readers_of(communities)
    homes = []
    for community in communities.values():
        keys = [(part.tensor, part.axis) for part in gated_slices(community)]
        homes.append({module for key in keys for module in readers.get(key, ())})
    blocks = blocks_of(communities, homes)
    if blocks is None:
        return None
    store = Held()
    tensors = tensors_of(communities.model)
    sizes = [tensors[name].shape[axis] for name, axis in readers]
    feed(communities.model, blocks.chain, data[:1], store)
    between = 2 * store.get(0).nbytes * len(data)
    return blocks if between < sum(8 * n * n for n in sizes) else None


def _in_blocks(
    communities: Communities,
    fitnesses: Sequence[Fitness],
    reader: PartsReader,
    masses: Sequence[Tensor],
    data: Data,
    asked: Mapping[str, list[int]],
    watches: Mapping[str, Watch],
    blocks: Blocks,
) -> list[Values]:
    """Look at one block after the other; of its statistics nothing stays but what signals say."""
    slices = [gated_slices(community) for community in communities.values()]
    found: list[dict[int, Tensor]] = [{} for _ in fitnesses]
    unseen = set(watches)
    for place in walk(communities.model, blocks.chain, data):
        for number in range(len(place.feeds)):
            place.ahead(number)
        members = blocks.members[place.number]
        keys = {(part.tensor, part.axis) for i in members for part in slices[i]}
        for statistic, places in asked.items():
            statistics = watches[statistic].take(keys)
            unseen -= {statistic} if statistics else set()
            device = next((x.device for x in statistics.values()), masses[0].device)
            with torch.no_grad():
                for i in members:
                    parts = reader.read(i, masses[i].to(device), lambda _: None, statistics)
                    for f in places:
                        found[f][i] = fitnesses[f].signal(parts)
    if unseen:
        refuse("data", "no sample in any batch", "at least one sample")
    return [[values[i] for i in range(len(masses))] for values in found]


def _of_statistics(
    watch: Watch,
    fitnesses: Sequence[Fitness],
    reader: PartsReader,
    masses: Sequence[Tensor],
    group: Any,
) -> list[Values]:
    """Read a watch, close it, and return what the signals say; its numbers are let go after."""
    try:
        statistics: Mapping[tuple[str, int], Tensor] = watch.read(group)
    finally:
        watch.close()
    device = next(iter(statistics.values())).device
    with torch.no_grad():
        parts = [
            reader.read(
                *(i, mass.to(device), lambda _: None, statistics),
                by_sums=all(f.by_sums for f in fitnesses),
            )
            for i, mass in enumerate(masses)
        ]
        return [[f.signal(p) for p in parts] for f in fitnesses]


def _added(one: Values, other: Values) -> Values:
    return [a + b for a, b in zip(one, other, strict=True)]


def _look_up(found: Mapping[int, Tensor], parameter: nn.Parameter) -> Tensor:
    return found[id(parameter)]


@contextmanager
def _differentiable(weights: list[nn.Parameter]) -> Iterator[None]:
    """Let weights require a gradient for a while, frozen ones too."""
    frozen = [w for w in weights if not w.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
