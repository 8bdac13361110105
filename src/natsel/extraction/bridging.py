r"""What a branch that went had added is added by the one before it, as far as that can.

Nothing reads a removed branch alone, so no consumer lacks an input. But the stream lacks what it
had added, and the last survivor that writes to the stream before the gap can write that, too: with
k what enters its last layer and d what the stream lacks behind the gap, d is regressed on k, and
what is found is added to that layer's weight. What reads the stream behind the gap finds there
nearly what it had found before.

Reference:
    Shopkhoev et al., "ReplaceMe: Network simplification via depth pruning and transformer block
    linearization" (2025), arXiv:2505.02819, where a linear map takes the place of blocks and is
    folded into the layer before them. Here the rest of that layer's weight follows, too, and
    samples that are held out decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from natsel.blockwise import Chain, Place
from natsel.communities import Communities
from natsel.communities.branches.branch import Branch
from natsel.communities.surgery.surgery import kept_indices
from natsel.communities.tensors import tensors_of, tied_names
from natsel.extraction.absorbed import Absorbed
from natsel.extraction.absorption import absorb
from natsel.extraction.block import Done
from natsel.extraction.consumers import Consumer, reading_axis, takes_constant, unfit
from natsel.extraction.entering import EnoughError, looking
from natsel.extraction.folds import Samples
from natsel.extraction.reading import Reading, Seen, as_float, square
from natsel.extraction.sums import summing, sums_of

UNSEEN = "what it writes is not simply added to a stream that leaves its block"


@dataclass(frozen=True, eq=False)
class Bridge:
    """A gap in a stream, and who is to bridge it.

    Attributes:
        consumer: the last layer of the survivor before the gap.
        last: path of the last layer of the last branch that went.
        behind: those of the next survivors: what they add must not be in the sum.
    """

    consumer: Consumer
    last: str
    behind: tuple[str, ...]


def bridges_of(
    model: nn.Module, communities: Communities, survivors: Mapping[str, Tensor]
) -> list[Bridge]:
    """Return one bridge for each gap that has a survivor before it, in the order of the stream.

    Args:
        model: the dense model.
        communities: what the survivors belong to.
        survivors: one boolean tensor ``[size]`` per community.
    """
    tensors = tensors_of(model)
    kept = kept_indices(communities.values(), survivors, tensors)
    shared = set(tied_names(model).values())
    found = []
    for name, community in communities.items():
        if not community.branches or name not in survivors:
            continue
        stays = survivors[name].tolist()
        for place, (branch, there) in enumerate(zip(community.branches, stays, strict=True)):
            after = stays[place + 1 :]
            if not there or not after or after[0]:
                continue
            end = place + 1 + (after.index(True) if True in after else len(after))
            tensor = _writes(branch)
            last = _writes(community.branches[end - 1])
            if not tensor or not last:
                continue
            module = tensor.rpartition(".")[0]
            axis = reading_axis(model.get_submodule(module))
            places = kept.get(tensor, {})
            size = tensors[tensor].shape[axis]
            remaining = places.get(axis, torch.arange(size))
            gone = torch.ones(size, dtype=torch.bool)
            gone[remaining] = False
            reason = "its weight is shared with another module" if tensor in shared else ""
            found.append(
                Bridge(
                    Consumer(
                        tensor,
                        axis,
                        module,
                        (name,),
                        remaining,
                        gone.nonzero().reshape(-1),
                        {other: kept for other, kept in places.items() if other != axis},
                        takes_constant(model.get_submodule(module))
                        and f"{module}.bias" not in shared,
                        reason or unfit(model, tensor, axis, size, len(remaining)),
                    ),
                    last.rpartition(".")[0],
                    tuple(
                        path.rpartition(".")[0]
                        for each in community.branches[end : end + 2]
                        if (path := _writes(each))
                    ),
                )
            )
    return found


def bridge(dense: Place, small: Place, each: Bridge, *, ridge: float | None) -> Done:
    """Let a survivor of one block write what the stream lacks behind a gap, in place.

    Args:
        dense: the block in the dense model where the gap ends, with what enters it.
        small: the block in the small model that the survivor is in; what follows it there went.
        each: the gap.
        ridge: the penalty; None chooses it by samples that are held out.

    Returns:
        What became of the survivor, with the tensors that changed.
    """
    consumer = each.consumer
    if consumer.reason:
        return _left(each, consumer.reason)
    path = consumer.module
    ours = sums_of(small, [path]).get(path)
    inside = [p for p in each.behind if p.startswith(f"{dense.path}.")]
    theirs = sums_of(dense, [each.last, *inside])
    end = theirs.get(each.last)
    if ours is None or ours.reader is not None or end is None:
        return _left(each, UNSEEN)
    if any(theirs.get(p) == end for p in inside):
        return _left(each, "a survivor adds to the same sum as what went")
    reading = Reading(dense.model, consumer, short=False)
    seen = Seen.nothing(reading)
    samples = Samples([feed.inputs for feed in small.feeds])
    entered: list[Tensor] = []
    mine: list[Tensor] = []
    whole: list[Tensor] = []
    module = small.model.get_submodule(path)
    for number in range(len(small.feeds)):
        with looking(module, entered.append), summing(small, ours, mine.append):
            small.one(number)
        with summing(dense, end, whole.append), suppress(EnoughError):
            dense.ahead(number)
        if not len(entered) == len(mine) == len(whole) == 1:
            return _left(each, UNSEEN)
        k, is_now, should = entered.pop(), mine.pop(), whole.pop()
        if (left := next(iter(consumer.others.values()), None)) is not None:
            should = should[:, left.to(should.device)]
        if is_now.shape != should.shape or len(k) != len(should):
            return _left(each, UNSEEN)
        seen.square += square(as_float(should))
        lacking = as_float(should) - as_float(is_now)
        seen.lacks(k, lacking, samples.folds(number, len(k), seen.num_folds))
    line, changed = absorb(small.model, consumer, seen, ridge)
    return replace(line, gap=each.last), changed


def where(each: Bridge, chain: Chain) -> tuple[int, int] | None:
    """Return the numbers of the blocks of a chain where a bridge begins and ends."""
    ends = [
        next((n for n, p in enumerate(chain.paths) if path.startswith(f"{p}.")), None)
        for path in (each.consumer.module, each.last)
    ]
    first, last = ends
    return None if first is None or last is None else (first, last)


def _left(each: Bridge, reason: str) -> Done:
    return replace(Absorbed.left(each.consumer, reason), gap=each.last), []


def _writes(branch: Branch) -> str:
    """Return the last weight of a branch, or nothing where it has none that says so."""
    weights = [gate for gate in branch.gates if gate.rpartition(".")[2] == "weight"]
    return weights[-1] if weights else ""
