"""Select single weights: by a share of them, N of each M, or in blocks."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from natsel.common.errors import NonFiniteError, refuse, refuse_together
from natsel.selection.budget import Sparsity
from natsel.selection.sequence import Scope
from natsel.selection.structure import NM, Blocks
from natsel.selection.survivors import PackedSurvivors, Survivors, unpacked
from natsel.single_weights.streaming.blocks import (
    block_scores,
    check_shape,
    keep_blocks,
    num_blocks,
)
from natsel.single_weights.streaming.engines import Engine, NumpyEngine, TorchEngine
from natsel.single_weights.streaming.keys import KEY_TYPES, KeyType
from natsel.single_weights.streaming.masks import BitMasks, BoolMasks, Masks
from natsel.single_weights.streaming.n_of_m import check_groups, keep_of_groups
from natsel.single_weights.streaming.rows import keep_of_rows, row_size
from natsel.single_weights.streaming.source import UNSIGNED, Source, cut, identity, magnitude
from natsel.single_weights.streaming.threshold import NonFinite, keep_fittest
from natsel.single_weights.weights import Weights

ZEROED = 1 << 17
"""Weights that are set to zero at once."""
WORTH_COMPILING = 1 << 26
"""Weights from which on "auto" takes numba, if it is installed: it compiles for seconds."""


def select_weights(
    weights: Weights,
    budget: Sparsity | NM | Blocks,
    *,
    scope: Scope | Literal["row"],
    floor: int = 1,
    packed: bool = False,
    zero: bool = False,
) -> Survivors:
    """Stream through weights and decide which survive; see :func:`natsel.select`.

    Args:
        weights: their tensors, and what scores them.
        budget: how many go, or where survivors lie.
        scope: "community" removes the share in each tensor, "row" in each of its outputs, "global"
            compares all.
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
    if scope == "row":
        check_rows(weights, budget)
    sources = _sources(weights)
    engine = _engine(weights, sources)
    kind = BitMasks if packed else BoolMasks
    masks: BoolMasks | BitMasks
    try:
        if isinstance(budget, Blocks):
            assert scope != "row"
            chosen = _chosen_blocks(sources, budget, scope, floor, engine)
            masks = kind(sources, engine)
            for source, blocks in zip(sources, chosen, strict=True):
                keep_blocks(source, blocks, budget.shape, engine, masks)
        elif isinstance(budget, NM):
            check_groups(sources, budget.num_all)
            masks = kind(sources, engine)
            keep_of_groups(sources, budget.num_kept, budget.num_all, engine, masks)
        elif scope == "row":
            num_kept = {s.name: _of_row(s, budget, floor) for s in sources}
            masks = kind(sources, engine)
            keep_of_rows(sources, lambda s: num_kept[s.name], engine, masks)
        else:
            counts = _counts(sources, budget, scope, floor)
            masks = kind(sources, engine)
            _keep_share(counts, budget, floor, engine, masks)
    except NonFinite as error:
        raise NonFiniteError(f"the scores of {str(error)!r} hold NaN or infinity") from None
    if zero:
        for pieces in cut(sources, ZEROED):
            for piece in pieces:
                engine.silence(piece, masks.read(piece))
    owned = {s.name: masks.of(s) for s in sources}
    for name in weights.turned & owned.keys():
        owned[name] = _turned_back(owned[name], weights[name].T.shape, packed)
    found = {name: owned[weights.owner[name]] for name in weights}
    if packed:
        return PackedSurvivors({n: (bits, weights[n].shape) for n, bits in found.items()})
    return Survivors(found, device=None)  # as many as the weights: they stay where those are


def check_rows(weights: Weights, budget: object) -> None:
    """Refuse what has no rows to compare within.

    Raises:
        ValueError: if the budget is another pattern, or an output is no row of a tensor.
    """
    if not isinstance(budget, Sparsity):
        given = {"scope": "row", "budget": budget}
        refuse_together(given, "natsel.Sparsity: NM and Blocks say themselves what is compared")
    if weights.transposed:
        name = sorted(weights.transposed)[0]
        allowed = f"'community' for {name!r}: the rows of a transposed convolution are inputs"
        refuse("scope", "row", allowed)


def _of_row(source: Source, budget: Sparsity, floor: int) -> int:
    """Return how many weights of each row stay.

    Raises:
        ValueError: if none would.
    """
    size = row_size(source)
    num_kept = size - budget.count(size)
    if num_kept == 0 and floor:
        given = f"{size} of {size} in each row of {source.name!r}"
        refuse("sparsity", given, "a share that leaves one; floor=0 lets all go")
    return num_kept


def _sources(weights: Weights) -> list[Source]:
    names = list(dict.fromkeys(weights.owner.values()))
    types = {weights[name].dtype for name in names}
    kind = _kind(types, native=weights.scorer is magnitude)
    starts = itertools.accumulate((weights[n].numel() for n in names), initial=0)
    found = []
    for name, start in zip(names, starts, strict=False):
        weight, second = weights.laid(name)
        found.append(Source(name, weight, weights.scorer, kind, second, start))
    return found


def _turned_back(mask: Tensor, shape: torch.Size, packed: bool) -> Tensor:
    """Return a mask ``[outputs, inputs]`` as ``[inputs, outputs]``, in bits where it is in bits."""
    if not packed:
        return mask.T.contiguous()
    flat = unpacked(mask, shape).T.reshape(-1)
    return torch.from_numpy(np.packbits(flat.numpy(), bitorder="little"))


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
        from natsel.single_weights.streaming.compiled import NumbaEngine

        return NumbaEngine(kind, signed)
    return NumpyEngine(kind, signed) if name == "numpy" else TorchEngine(kind, signed)


def _counts(
    sources: Sequence[Source], budget: Sparsity | Blocks, scope: Scope, floor: int
) -> list[tuple[list[Source], int]]:
    """Return who competes, and how many stay.

    Raises:
        ValueError: if none would.
    """
    groups = [list(sources)] if scope == "global" else [[s] for s in sources]
    found = []
    for group in groups:
        size = sum(s.size for s in group)
        num_kept = size - Sparsity(budget.value).count(size)
        if num_kept == 0 and floor:
            given = f"{size} of {size} in {group[0].name!r}"
            refuse("sparsity", given, "a share that leaves one; floor=0 lets all go")
        found.append((group, num_kept))
    return found


def _keep_share(
    counts: Sequence[tuple[list[Source], int]],
    budget: Sparsity | Blocks,
    floor: int,
    engine: Engine,
    masks: Masks,
) -> None:
    """Write masks that keep so many of each group.

    Raises:
        ValueError: if a tensor would be emptied and may not.
    """
    for group, num_kept in counts:
        keep_fittest(group, num_kept, engine, masks)
        # A group of one keeps at least one.
        for source in group if floor and len(group) > 1 else ():
            if masks.is_empty(source):
                allowed = (
                    f"a share that leaves something of {source.name!r}; floor=0 lets it go, "
                    "scope='community' takes the same share of each tensor"
                )
                refuse("sparsity", budget.value, allowed)


def _chosen_blocks(
    sources: Sequence[Source], budget: Blocks, scope: Scope, floor: int, engine: Engine
) -> list[Tensor]:
    """Choose whole blocks as single weights are chosen, by the mean of their scores.

    Returns:
        A mask of blocks for each source, bool ``[num_blocks]``.
    """
    for source in sources:
        check_shape(source, budget.shape)
    first = sources[0]
    wide = first.kind.score if first.kind.score == torch.float64 else torch.float32
    sizes = [num_blocks(source, budget.shape) for source in sources]
    memory = torch.empty(sum(sizes), dtype=wide, device=first.weight.device)
    means: list[Source] = []
    start = 0
    for source, scores in zip(sources, torch.split(memory, sizes), strict=True):
        block_scores(source, budget.shape, engine, scores)
        # Means of what is never negative are their own magnitude, and need no sign.
        scorer = identity if engine.signed else magnitude
        means.append(Source(source.name, scores, scorer, KEY_TYPES[wide], start=start))
        start += len(scores)
    plain = TorchEngine if isinstance(engine, TorchEngine) else NumpyEngine
    small: Engine = plain(KEY_TYPES[wide], engine.signed)
    chosen = BoolMasks(means, small)
    _keep_share(_counts(means, budget, scope, floor), budget, floor, small, chosen)
    return [chosen.of(source) for source in means]
