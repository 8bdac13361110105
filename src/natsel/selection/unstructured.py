"""Select single weights: by a share of them, N of each M, or in blocks."""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch

from natsel.common.errors import NonFiniteError, refuse
from natsel.selection.budget import Sparsity
from natsel.selection.sequence import Scope
from natsel.selection.streaming.blocks import block_scores, check_shape, kept_blocks
from natsel.selection.streaming.engines import Engine, NumpyEngine, TorchEngine
from natsel.selection.streaming.keys import KEY_TYPES, KeyType
from natsel.selection.streaming.masks import BitMask, Mask, Parted, bool_masks, kept_by
from natsel.selection.streaming.n_of_m import check_groups, kept_of_groups
from natsel.selection.streaming.source import UNSIGNED, Source, identity, magnitude
from natsel.selection.streaming.threshold import NonFinite, Threshold, find_threshold, walk
from natsel.selection.structure import NM, Blocks
from natsel.selection.survivors import PackedSurvivors, Survivors
from natsel.selection.weights import Weights

Write = Callable[[Mapping[str, Mask]], Iterator[Parted]]
"""Writes masks, and yields each part when its mask is written."""
WORTH_COMPILING = 1 << 26
"""Weights from which on "auto" takes numba, if it is installed: it compiles for seconds."""


def select_weights(
    weights: Weights,
    budget: Sparsity | NM | Blocks,
    *,
    scope: Scope,
    floor: int = 1,
    packed: bool = False,
    zero: bool = False,
) -> Survivors:
    """Stream through weights and decide which survive; see :func:`natsel.select`.

    Args:
        weights: their tensors, and what scores them.
        budget: how many go, or where survivors lie.
        scope: "community" removes the share in each tensor, "global" compares all.
        floor: 1 refuses to empty a tensor, 0 allows it.
        packed: write masks of one bit a weight.
        zero: also set the weights that go to zero, where they are.

    Returns:
        The survivors.

    Raises:
        ValueError: if the budget cannot be met, a tensor would be emptied, or a shape does not fit.
        NonFiniteError: if a score is NaN or infinite; nothing has changed then.
    """
    if floor not in (0, 1) or isinstance(floor, bool):
        refuse("floor", floor, "0 or 1 for weights: whether a tensor may be emptied")
    sources = _sources(weights)
    engine = _engine(weights, sources)
    try:
        write = _decide(sources, budget, scope, floor, engine)
        if zero and isinstance(budget, NM):
            # It decides as it writes: weights change only when all are known to be finite.
            deque(write(bool_masks(sources, engine)), maxlen=0)
        whole = {} if packed else bool_masks(sources, engine)
        bits = {s.name: BitMask(s, engine) for s in sources} if packed else {}
        for source, part, mask in write({**whole, **bits}):
            if zero:
                engine.silence(source, part, mask)
    except NonFinite as error:
        raise NonFiniteError(f"the scores of {str(error)!r} hold NaN or infinity") from None
    owner = weights.owner
    if packed:
        return PackedSurvivors({n: (bits[owner[n]].bits, bits[owner[n]].shape) for n in weights})
    return Survivors({n: whole[owner[n]].mask for n in weights})


def _decide(
    sources: list[Source],
    budget: Sparsity | NM | Blocks,
    scope: Scope,
    floor: int,
    engine: Engine,
) -> Write:
    """Return how the masks are to be written; what can be refused has been."""
    if isinstance(budget, NM):
        check_groups(sources, budget.num_all)
        return partial(kept_of_groups, sources, budget.num_kept, budget.num_all, engine)
    if isinstance(budget, Blocks):
        return _blocks(sources, budget, scope, floor, engine)
    return _share(sources, budget, scope, floor, engine)


def _sources(weights: Weights) -> list[Source]:
    names = list(dict.fromkeys(weights.owner.values()))
    types = {weights[name].dtype for name in names}
    kind = _kind(types, native=weights.scorer is magnitude)
    return [Source(n, weights[n], weights.scorer, kind, weights.second[n]) for n in names]


def _kind(types: set[torch.dtype], *, native: bool) -> KeyType:
    """Return in which type weights are compared: their own, or one that holds all of them.

    Products of 16-bit numbers are compared in float32, where they do not round to ties.
    """
    if torch.float64 in types:
        return KEY_TYPES[torch.float64]
    if len(types) == 1 and native:
        return KEY_TYPES[next(iter(types))]
    return KEY_TYPES[torch.float32]


def _engine(weights: Weights, sources: Sequence[Source]) -> Engine:
    signed = weights.scorer not in UNSIGNED
    kind, name = sources[0].kind, weights.engine
    on_processor = sources[0].weight.device.type == "cpu"
    if name in ("numpy", "numba") and not on_processor:
        refuse("engine", name, "'torch' or 'auto' for tensors on an accelerator")
    if name == "auto" and on_processor:
        there = importlib.util.find_spec("numba") is not None
        name = "numba" if there and weights.size >= WORTH_COMPILING else "numpy"
    if name == "numba":
        from natsel.selection.streaming.compiled import NumbaEngine

        return NumbaEngine(kind, signed)
    return NumpyEngine(kind, signed) if name == "numpy" else TorchEngine(kind, signed)


def _share(
    sources: Sequence[Source],
    budget: Sparsity | Blocks,
    scope: Scope,
    floor: int,
    engine: Engine,
) -> Write:
    """Find the thresholds that remove a share."""
    groups = [list(sources)] if scope == "global" else [[s] for s in sources]
    found: list[tuple[list[Source], Threshold]] = []
    for group in groups:
        size = sum(s.size for s in group)
        num_kept = size - Sparsity(budget.value).count(size)
        if num_kept == 0 and floor:
            given = f"{size} of {size} in {group[0].name!r}"
            refuse("sparsity", given, "a share that leaves one; floor=0 lets all go")
        threshold = find_threshold(group, max(num_kept, 1), engine)
        if num_kept == 0:
            threshold = Threshold(group[0].kind.infinity, 0, 0, threshold.largest)
        elif floor and len(group) > 1:
            _refuse_empty(group, threshold, budget, engine)
        found.append((group, threshold))

    def write(masks: Mapping[str, Mask]) -> Iterator[Parted]:
        for group, threshold in found:
            yield from kept_by(threshold, group, engine, masks)

    return write


def _refuse_empty(
    sources: list[Source], threshold: Threshold, budget: Sparsity | Blocks, engine: Engine
) -> None:
    if all(top > threshold.key for top in threshold.largest):
        return
    at_edge = list(walk(sources, engine, threshold))
    for source, top, ties in zip(sources, threshold.largest, at_edge, strict=True):
        if top < threshold.key or (top == threshold.key and ties == 0):
            allowed = (
                f"a share that leaves something of {source.name!r}; floor=0 lets it go, "
                "scope='community' takes the same share of each tensor"
            )
            refuse("sparsity", budget.value, allowed)


def _blocks(
    sources: Sequence[Source], budget: Blocks, scope: Scope, floor: int, engine: Engine
) -> Write:
    """Choose whole blocks as single weights are chosen, by the mean of their scores."""
    for source in sources:
        check_shape(source, budget.shape)
    means = []
    for source in sources:
        scores = block_scores(source, budget.shape, engine)
        # Means of what is never negative are their own magnitude, and need no sign.
        scorer = identity if engine.signed else magnitude
        means.append(Source(source.name, scores, scorer, KEY_TYPES[scores.dtype]))
    plain = TorchEngine if isinstance(engine, TorchEngine) else NumpyEngine
    small: Engine = plain(means[0].kind, engine.signed)
    chosen = bool_masks(means, small)
    deque(_share(means, budget, scope, floor, small)(chosen), maxlen=0)

    def write(masks: Mapping[str, Mask]) -> Iterator[Parted]:
        for source in sources:
            mask = chosen[source.name].mask
            yield from kept_blocks(source, mask, budget.shape, engine, masks[source.name])

    return write
