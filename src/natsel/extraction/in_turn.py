"""Consumers compensated in the order in which a model runs them, along its chains of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice

from torch import Tensor, nn

from natsel.blockwise import Chain, chains_of, walk
from natsel.common.batches import Data
from natsel.common.errors import first_line, refuse
from natsel.common.modes import evaluating
from natsel.extraction.absorption import absorb
from natsel.extraction.block import Done, compensate_block
from natsel.extraction.bridging import Bridge, bridge, where
from natsel.extraction.consumers import Consumer
from natsel.extraction.entering import entering, inputs_of, looking, num_calls, run
from natsel.extraction.folds import Samples, num_folds
from natsel.extraction.moments import Moments
from natsel.extraction.reading import Reading, Seen


def in_turn(
    model: nn.Module,
    small: nn.Module,
    consumers: Sequence[Consumer],
    data: Data,
    ridge: float | None,
    *,
    stream: bool = True,
    bridges: Sequence[Bridge] = (),
) -> list[Done]:
    """Compensate consumers in the order of their calls, each after those before it.

    Those inside a chain of blocks are taken block by block (see
    :func:`natsel.extraction.block.compensate_block`): two or three runs of each block over the
    data. For any other, both models run as far as it is.

    Args:
        model: the dense model.
        small: changed in place.
        consumers: without a reason.
        data: can be read again, with the same batches each time.
        ridge: the penalty; None chooses it.
        stream: let those of a block make up for what was lost before it.
        bridges: over gaps in the stream; those that are in no chain are left out.

    Returns:
        What became of those that something enters.
    """
    done: list[Done] = []
    bridging = [each.consumer for each in bridges]
    chains = shared_chains(model, small, [*consumers, *bridging], data)
    inside = {c.module: _chain_of(c, chains) for c in consumers}
    by_path = {c.module: c for c in consumers}
    outside = {path for path, chain in inside.items() if chain is None}
    first = list(islice(data, 1))
    calls = num_calls(model, outside, data) if outside else {}
    order = num_calls(model, by_path, first) if outside and chains else (calls or by_path)
    # One that the first batch does not reach may be reached by another.
    for path in dict.fromkeys([*order, *calls, *inside]):
        chain = inside[path]
        if chain is not None and chain in chains:
            chains.remove(chain)
            members = [c for c in consumers if inside[c.module] is chain]
            done += along(model, small, chain, members, data, ridge, stream=stream, bridges=bridges)
        elif chain is None and path in calls:
            with evaluating(small):
                seen = _paired(model, small, by_path[path], data, calls[path])
            if seen is None:
                # A router sends other tokens here than it did before.
                seen = alone(model, [by_path[path]], data)[path]
            done.append(absorb(small, by_path[path], seen, ridge))
    for chain in chains:  # whose blocks lost nothing but branches
        if any(where(each, chain) for each in bridges):
            done += along(model, small, chain, [], data, ridge, stream=stream, bridges=bridges)
    return done


def along(
    model: nn.Module,
    small: nn.Module,
    chain: Chain,
    consumers: Sequence[Consumer],
    data: Data,
    ridge: float | None,
    *,
    stream: bool = True,
    bridges: Sequence[Bridge] = (),
) -> list[Done]:
    """Compensate the consumers inside a chain, both models walked side by side.

    Where a gap is bridged the dense model goes ahead as far as the gap, in whose blocks nothing of
    the small one is left, and waits there.
    """
    done: list[Done] = []
    spans = [(each, span) for each in bridges if (span := where(each, chain)) is not None]
    numbers = [n for n, path in enumerate(chain.paths) if _within(consumers, path)]
    last = max([*numbers, *(first for _, (first, _) in spans)])
    with evaluating(small):
        walks = walk(model, chain, data), walk(small, chain, data)
        with _told(data):
            dense, ours = (next(each) for each in walks)
        for number in range(last + 1):
            if ours.number < number:
                ours = next(walks[1])
            if dense.number < number:
                dense = next(walks[0])
            if dense.number == number:
                inside = _within(consumers, dense.path)
                done += compensate_block(dense, ours, inside, ridge=ridge, stream=stream)
            for each, (first, end) in spans:
                if first == number:
                    while dense.number < end:
                        dense = next(walks[0])
                    done.append(bridge(dense, ours, each, ridge=ridge))
    return done


def _within(consumers: Sequence[Consumer], path: str) -> list[Consumer]:
    return [c for c in consumers if c.module == path or c.module.startswith(f"{path}.")]


def _chain_of(consumer: Consumer, chains: Sequence[Chain]) -> Chain | None:
    return next((c for c in chains if any(_within([consumer], p) for p in c.paths)), None)


def shared_chains(
    model: nn.Module, small: nn.Module, consumers: Sequence[Consumer], data: Data
) -> list[Chain]:
    """Return the chains of blocks that both models have and that hold consumers.

    A block is more than one layer, and all of a chain are alike: between layers of a network that
    has no blocks, hidden states would take more room than they save time.
    """
    for inputs in islice(inputs_of(data, model), 1):
        run(model, inputs)  # Says what is wrong with data that it does not run on.
        ours = {chain.paths: chain for chain in chains_of(small, inputs)}
        return [
            chain
            for chain in chains_of(model, inputs)
            if ours.get(chain.paths) == chain
            and _alike([model.get_submodule(path) for path in chain.paths])
            and any(_within(consumers, path) for path in chain.paths)
        ]
    return []


def _alike(blocks: Sequence[nn.Module]) -> bool:
    return len({type(block) for block in blocks}) == 1 and any(blocks[0].children())


@contextmanager
def _told(data: Data) -> Iterator[None]:
    """Say of which shapes data are that a model does not run on."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError, AttributeError) as error:
        allowed = f"inputs that the model runs on ({first_line(error)})"
        refuse("data", f"{sum(1 for _ in data)} batches", allowed)


def _paired(
    model: nn.Module, small: nn.Module, consumer: Consumer, data: Data, calls: int
) -> Seen | None:
    """Return what enters a consumer in both models; None where their rows are not the same."""
    seen = Seen.nothing(Reading(model, consumer))
    samples = Samples(list(inputs_of(data, model)))
    for number, inputs in enumerate(inputs_of(data, model)):
        ours, theirs = (entering(m, consumer.module, inputs, calls) for m in (small, model))
        if [len(k) for k in ours] != [len(h) for h in theirs]:
            return None
        for k, h in zip(ours, theirs, strict=True):
            folds = samples.folds(number, len(k), seen.num_folds)
            seen.add(k, seen.reading.dense(h), folds)
    return seen


def alone(model: nn.Module, consumers: Sequence[Consumer], data: Data) -> dict[str, Seen]:
    """Return what enters consumers in the dense model, by the path of their module."""
    samples = Samples(list(inputs_of(data, model)))
    readings = {c.module: Reading(model, c) for c in consumers}
    parts = {
        path: [Moments() for _ in range(num_folds(reading.rows.shape[1]))]
        for path, reading in readings.items()
    }
    batch = 0

    def into(path: str) -> Callable[[Tensor], None]:
        def look(h: Tensor) -> None:
            folds = samples.folds(batch, len(h), len(parts[path])).to(h.device)
            for fold, moments in enumerate(parts[path]):
                moments.add(h[folds == fold])

        return look

    with ExitStack() as hooks:
        for path in readings:
            hooks.enter_context(looking(model.get_submodule(path), into(path)))
        for inputs in inputs_of(data, model):
            run(model, inputs)
            batch += 1
    return {path: Seen.alone(reading, parts[path]) for path, reading in readings.items()}
