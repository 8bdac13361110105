"""Go through the layers of a model in the order in which they run, what enters them at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import nn

from natsel.blockwise import Chain, Store, chains_of, walk
from natsel.common.batches import inputs_for
from natsel.common.calls import call, without_cache
from natsel.common.errors import refuse
from natsel.common.hooks import watching
from natsel.common.modes import evaluating
from natsel.common.progress import Progress, silent

Take = Callable[[Mapping[str, nn.Module], Callable[[], None]], None]
"""Gets layers that run together, and what runs them over all data."""


def visit(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Any,
    take: Take,
    *,
    store: Store | None = None,
    told: str = "sparsify",
    progress: Progress = silent,
) -> float:
    """Hand over chains block by block, and what lies between layer by layer, as they run.

    What enters a block comes out of those before it as they are by then: layers may be changed as
    they are taken.

    Args:
        model: that is gone through.
        layers: by the name of their weight.
        batches: that can be read again.
        take: is called with the layers of a block, and with each layer outside of any.
        store: where hidden states are held between blocks; in memory by default.
        told: what progress calls it.
        progress: called after each block.

    Returns:
        How often the whole model ran over the data; a block of a chain is half of one.

    Raises:
        ValueError: if there are no batches.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> layers, seen = {"0.weight": model[0], "2.weight": model[2]}, []
        >>> _ = visit(model, layers, [(torch.zeros(1, 2),)], lambda found, _: seen.extend(found))
        >>> seen
        ['0.weight', '2.weight']
    """
    first = list(islice(iter(batches), 1))
    if not first:
        refuse("data", "empty", "at least one batch")
    inputs = inputs_for(model, first[0])
    chains = chains_of(model, inputs)
    inside = {n: c for c in chains for p in c.paths for n in layers if n.startswith(f"{p}.")}
    heads: dict[str, Chain] = {c.paths[0]: c for c in chains if c in inside.values()}
    outside = {n: layer for n, layer in layers.items() if n not in inside}
    watched = {**outside, **{p: model.get_submodule(p) for p in heads}}
    order: dict[str, None] = {}
    with (
        watching(watched, lambda name, *_: order.setdefault(name, None)),
        evaluating(model),
        without_cache(model),
        torch.no_grad(),
    ):
        call(model, inputs)
    total = sum(len(heads[n]) if n in heads else 1 for n in order)
    passes, done = 0.0, 0

    def run() -> None:
        nonlocal passes
        passes += 1
        with evaluating(model), without_cache(model), torch.no_grad():
            for batch in batches:
                call(model, inputs_for(model, batch))

    for name in order:
        if name not in heads:
            take({name: outside[name]}, run)
            done += 1
            progress(f"{told}: {name}", done, total)
            continue
        for place in walk(model, heads[name], batches, store=store):
            here = {n: x for n, x in layers.items() if n.startswith(f"{place.path}.")}
            if here:
                take(here, place.look)
            done += 1
            progress(f"{told}: {place.path}", done, total)
        passes += 2.0
    return passes
