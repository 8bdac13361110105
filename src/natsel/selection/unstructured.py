"""Select single weights: by a share of them, N of each M, or in blocks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence

import torch

from natsel.common.errors import NonFiniteError, refuse
from natsel.selection.budget import Sparsity
from natsel.selection.sequence import Scope
from natsel.selection.streaming.blocks import block_scores, check_shape, expand
from natsel.selection.streaming.engines import Engine, NumpyEngine, TorchEngine
from natsel.selection.streaming.keys import KEY_TYPES, KeyType
from natsel.selection.streaming.masks import BitMask, BoolMask, Parted, kept_by
from natsel.selection.streaming.n_of_m import kept_of_groups
from natsel.selection.streaming.source import UNSIGNED, Source, identity, magnitude
from natsel.selection.streaming.threshold import NonFinite, Threshold, find_threshold, walk
from natsel.selection.structure import NM, Blocks
from natsel.selection.survivors import PackedSurvivors, Survivors
from natsel.selection.weights import Weights

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
        if isinstance(budget, NM):
            runs: Iterator[Parted] = kept_of_groups(
                sources, budget.num_kept, budget.num_all, engine
            )
        elif isinstance(budget, Blocks):
            runs = _blocks(sources, budget, scope, floor, engine)
        else:
            runs = _share(sources, budget, scope, floor, engine)
        masks = _write(runs, sources, engine, packed, zero)
    except NonFinite as error:
        raise NonFiniteError(f"the scores of {str(error)!r} hold NaN or infinity") from None
    shared = {name: masks[weights.owner[name]] for name in weights}
    if packed:
        return PackedSurvivors({n: (m.bits, m.shape) for n, m in shared.items()})  # type: ignore[union-attr]
    return Survivors({n: m.mask for n, m in shared.items()})  # type: ignore[union-attr]


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
    sources: list[Source], budget: Sparsity, scope: Scope, floor: int, engine: Engine
) -> Iterator[Parted]:
    """Yield masks that remove a share; every threshold is known before the first one."""
    groups = [sources] if scope == "global" else [[s] for s in sources]
    found = []
    for group in groups:
        size = sum(s.size for s in group)
        num_kept = size - budget.count(size)
        if num_kept == 0 and floor:
            given = f"{size} of {size} in {group[0].name!r}"
            refuse("sparsity", given, "a share that leaves a weight; floor=0 lets all go")
        threshold = find_threshold(group, max(num_kept, 1), engine)
        if num_kept == 0:
            threshold = Threshold(group[0].kind.infinity, 0, 0, threshold.largest)
        elif floor and len(group) > 1:
            _refuse_empty(group, threshold, budget, engine)
        found.append((group, threshold))
    for group, threshold in found:
        yield from kept_by(threshold, group, engine)


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
    sources: list[Source], budget: Blocks, scope: Scope, floor: int, engine: Engine
) -> Iterator[Parted]:
    """Yield masks of whole blocks, chosen as single weights are, by the mean of their scores."""
    means = []
    for source in sources:
        check_shape(source, budget.shape)
    for source in sources:
        scores = block_scores(source, budget.shape)
        kind = KEY_TYPES[scores.dtype]
        means.append(Source(source.name, scores, identity, kind))
    small: Engine = (
        TorchEngine(means[0].kind, True)
        if isinstance(engine, TorchEngine)
        else NumpyEngine(means[0].kind, True)
    )
    chosen = _write(
        _share(means, Sparsity(budget.value), scope, floor, small), means, small, False, False
    )
    for source in sources:
        mask = chosen[source.name].mask  # type: ignore[union-attr]
        yield from expand(source, mask, budget.shape, engine)


def _write(
    runs: Iterator[Parted],
    sources: Sequence[Source],
    engine: Engine,
    packed: bool,
    zero: bool,
) -> dict[str, BoolMask | BitMask]:
    """Write the masks of all sources, and zero what goes."""
    make: Callable[[Source], BoolMask | BitMask] = BitMask if packed else BoolMask
    masks = {s.name: make(s) for s in sources}
    for source, part, mask in runs:
        masks[source.name].write(engine.to_torch(mask))
        if zero:
            engine.silence(source, part, mask)
    return masks
