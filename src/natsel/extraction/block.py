"""One block compensated, with nothing but that block at hand: of the dense model and of the small.

Given what enters a block in both models, the dense block runs once over all batches: what its
consumers put out is held, or where that is added to a stream, the sum. The small block runs once
for each of its consumers, in the order in which it calls them, and once more to be left. No other
weight of either model is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from torch import Tensor, nn

from natsel.blockwise import Place
from natsel.extraction.absorbed import Absorbed
from natsel.extraction.absorption import absorb
from natsel.extraction.consumers import Consumer
from natsel.extraction.entering import EnoughError, looking
from natsel.extraction.folds import Samples, num_folds
from natsel.extraction.moments import Moments
from natsel.extraction.reading import Reading, Seen, as_float, square
from natsel.extraction.sums import Sum, summing, sums_of

UNSEEN = "nothing was seen to enter its module"
Done = tuple[Absorbed, list[str]]


def compensate_block(
    dense: Place,
    small: Place,
    consumers: Sequence[Consumer],
    *,
    ridge: float | None = None,
    stream: bool = True,
) -> list[Done]:
    """Let the consumers of one block of a small model take over what they lack, in place.

    The blocks are not left: to do that (:meth:`natsel.blockwise.Place.leave`, or by asking
    :func:`natsel.blockwise.walk` for the next ones) costs the dense one no further run.

    Args:
        dense: the block in the dense model, with what enters it.
        small: the same block in the small model.
        consumers: those inside the block; what has a reason is left as it is.
        ridge: the penalty; None chooses it, consumer by consumer, by samples that are held out.
        stream: where the output of a consumer is added to a stream, let the sum be that of the
            dense model, so that it also makes up for all that was lost before it.

    Returns:
        What became of each, in the order in which they are called, with the tensors that changed.

    Raises:
        ValueError: if NaN or infinity entered one.
    """
    able = {c.module: c for c in consumers if not c.reason}
    done: list[Done] = [(Absorbed.left(c, c.reason), []) for c in consumers if c.reason]
    if not able:
        return done
    sums = sums_of(dense, able) if stream else {}
    readings = {p: Reading(dense.model, c, short=p not in sums) for p, c in able.items()}
    calls, squares = _outputs(dense, readings, sums)
    samples = Samples([feed.inputs for feed in dense.feeds])
    for path, outputs in calls.items():
        if path in sums:
            left = next(iter(able[path].others.values()), None)
            seen = _summed(small, path, sums[path], readings[path], outputs, samples, left)
        else:
            seen = _paired(small, path, readings[path], outputs, samples)
        if seen is not None:
            seen.square = squares[path]
        if seen is None:
            # A router sends other tokens here than it did before.
            seen = _alone(dense, path, readings[path], samples)
        outputs.clear()
        done.append(absorb(small.model, able[path], seen, ridge))
    done += [(Absorbed.left(c, UNSEEN), []) for path, c in able.items() if path not in calls]
    return done


def _outputs(
    place: Place, readings: dict[str, Reading], sums: dict[str, Sum]
) -> tuple[dict[str, list[list[Tensor]]], dict[str, float]]:
    """Run a dense block; return what its consumers put out or the sums, batch by batch, and E|y|^2.

    P h, call by call. By the path of the consumer's module, in the order of the first call.
    """
    found: dict[str, list[list[Tensor]]] = {}
    squares: dict[str, float] = {}
    number = 0

    def hold(path: str) -> Callable[[Tensor], None]:
        def look(h: Tensor) -> None:
            batches = found.setdefault(path, [[] for _ in place.feeds])
            output = readings[path].dense(h)
            squares[path] = squares.get(path, 0.0) + square(output)
            if path not in sums:
                batches[number].append(output)

        return look

    def hold_sum(path: str) -> Callable[[Tensor], None]:
        return lambda total: found[path][number].append(total)

    with ExitStack() as hooks:
        for path in readings:
            hooks.enter_context(looking(place.model.get_submodule(path), hold(path)))
        for path, each in sums.items():
            hooks.enter_context(summing(place, each, hold_sum(path)))
        for number in range(len(place.feeds)):
            place.ahead(number)
    return found, squares


def _summed(
    place: Place,
    path: str,
    each: Sum,
    reading: Reading,
    sums: list[list[Tensor]],
    samples: Samples,
    left: Tensor | None,
) -> Seen | None:
    """Return what enters a consumer of a small block, beside what the sum lacks of the dense one.

    Of a stream whose width was cut too, at the places that are left. None where the dense rows are
    others.
    """
    seen = Seen.nothing(reading)
    entered: list[Tensor] = []
    ours: list[Tensor] = []

    def take(total: Tensor) -> None:
        ours.append(total)
        if each.reader is not None:
            raise EnoughError

    module = place.model.get_submodule(path)
    with looking(module, entered.append), summing(place, each, take):
        for number, theirs in enumerate(sums):
            with suppress(EnoughError):
                place.one(number)
            if not len(entered) == len(ours) == len(theirs) == 1:
                return None
            k, mine, whole = entered.pop(), ours.pop(), theirs[0]
            if left is not None and mine.shape[1] == len(left) < whole.shape[1]:
                whole = whole[:, left.to(whole.device)]
            if mine.shape != whole.shape or len(k) != len(whole):
                return None
            lacking = as_float(whole) - as_float(mine)
            seen.lacks(k, lacking, samples.folds(number, len(k), seen.num_folds))
    return seen


def _paired(
    place: Place, path: str, reading: Reading, outputs: list[list[Tensor]], samples: Samples
) -> Seen | None:
    """Return what enters a consumer of a small block; None where the dense rows are others."""
    seen = Seen.nothing(reading)
    module = place.model.get_submodule(path)
    for number, wanted in enumerate(outputs):
        entered = _entered(place, module, number, len(wanted))
        if [len(k) for k in entered] != [len(y) for y in wanted]:
            return None
        for k, y in zip(entered, wanted, strict=True):
            seen.add(k, y, samples.folds(number, len(k), seen.num_folds))
    return seen


def _entered(place: Place, module: nn.Module, number: int, calls: int) -> list[Tensor]:
    """Run a block on one batch as far as some calls of a module; return what entered it."""
    found: list[Tensor] = []
    with looking(module, found.append, calls=calls or None), suppress(EnoughError):
        place.one(number)
    return found


def _alone(place: Place, path: str, reading: Reading, samples: Samples) -> Seen:
    """Return what enters a consumer of a dense block, without the small one."""
    module = place.model.get_submodule(path)
    parts = [Moments() for _ in range(num_folds(reading.rows.shape[1]))]
    for number in range(len(place.feeds)):
        for h in _entered(place, module, number, 0):
            folds = samples.folds(number, len(h), len(parts)).to(h.device)
            for fold, moments in enumerate(parts):
                moments.add(h[folds == fold])
    return Seen.alone(reading, parts)
