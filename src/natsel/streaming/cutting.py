"""The pass that cuts: both models in lockstep, one block of each in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from natsel.blockwise import Place
from natsel.blockwise.alone import BLOCK, Alone
from natsel.common.patterns import chosen
from natsel.common.shards import ShardWriter
from natsel.communities.tensors import all_tensors, canonical_names
from natsel.selection import Survivors
from natsel.selection.select import select
from natsel.streaming.block import compensated, cut_block
from natsel.streaming.ledger import PROGRESS
from natsel.streaming.out import Out
from natsel.streaming.ranking import scores_of, selected
from natsel.streaming.work import Work
from natsel.streaming.worth import DENSE, SMALL, plain

LOST = "lost"
"""Under which name is noted what both models lose on held-out data."""


def cut(work: Work, out: Out, shard_size: int) -> tuple[ShardWriter, Survivors]:
    """Go through both models in lockstep; cut, verify, compensate and write each block."""
    done = work.ledger.read(PROGRESS) or {"phase": "cut", "block": 0, "shards": []}
    count, known = len(work.chain), work.found.communities
    everyone = None if work.options.in_one_pass else selected(work)
    options = work.options.options
    allowed = set(chosen(dict(known), options["include"], options["exclude"]))
    writer = ShardWriter(out.unfinished, most=shard_size, state=done["shards"])
    for number in range(done["block"], count):
        work.progress("prune: cut blocks", number, count + 1)
        with work.residency.resident(work.chain.paths[number]) as block:
            if everyone is None:
                scores = scores_of(work, number, block, idle=False)
                masks = _own_share(work, scores, allowed)
            else:
                masks = {name: everyone[name] for name in work.found.local[number]}
            note = _cut_one(work, number, block, masks, writer, ran=everyone is None)
        work.ledger.note(f"block-{number}", note)
        step = {"phase": "cut", "block": number + 1, "shards": writer.state()}
        work.ledger.note(PROGRESS, step)
        for kind in ("dense", "small", DENSE, SMALL):
            work.ledger.forget(f"{kind}-{number}")
    if done["block"] <= count:
        work.progress("prune: write the rest", count, count + 1)
        if work.held_out is not None:
            lost = work.held_out.measured(
                work.residency, work.chain, work.probe.inputs, work.ledger
            )
            work.held_out.quality(*lost)  # which refuses numbers that are none
            work.ledger.note(LOST, [plain(each) for each in lost])
        _write_rest(work, writer)
        work.ledger.note(PROGRESS, {"phase": "cut", "block": count + 1, "shards": writer.state()})
    masks = {}
    for number in range(count):
        for name, kept in work.ledger.read(f"block-{number}")["kept"].items():
            mask = torch.zeros(known[name].size, dtype=torch.bool)
            mask[kept] = True
            masks[name] = mask
    return writer, Survivors({name: masks[name] for name in known}, known)


def _own_share(work: Work, scores: Mapping[str, Tensor], allowed: set[str]) -> dict[str, Tensor]:
    """Select within one block, where every community loses its own share."""
    masks = {name: torch.ones(len(v), dtype=torch.bool) for name, v in scores.items()}
    taking = {name: value for name, value in scores.items() if name in allowed}
    if taking:
        options = work.options.options
        known = work.found.communities
        selected = select(
            taking,
            work.options.budget,
            communities=known,
            **{**options, "include": None, "exclude": None},
        )
        masks |= dict(selected)
    return masks


def _cut_one(
    work: Work,
    number: int,
    block: nn.Module,
    masks: Mapping[str, Tensor],
    writer: ShardWriter,
    *,
    ran: bool,
) -> dict[str, Any]:
    """Cut one block, write it, and hand on what leaves it in both models."""
    path, ledger = work.chain.paths[number], work.ledger
    place = work.place(number, block)
    assert isinstance(place.model, Alone)
    probe = ledger.store("probe")
    hidden = probe.get(number)
    known = work.found.alone(number, place.model, hidden)
    local = {twin.name: masks[name] for name, twin in work.found.local[number].items()}
    small, verified = cut_block(place.model, known, local, hidden, path)
    entering = ledger.store(f"small-{number}" if number else "dense-0")
    done = None
    if work.options.compensate and verified is not None:
        done = compensated(place, small, known, local, entering, path)
    inner = small.get_submodule(BLOCK)
    if number + 1 < len(work.chain) and work.feeds:
        if not ran:
            place.leave(ledger.store(f"dense-{number + 1}"))
        Place(number, BLOCK, inner, small, work.feeds, entering).leave(
            ledger.store(f"small-{number + 1}")
        )
    if work.held_out is not None:
        work.held_out.through(place, small, inner, ledger)
    with torch.no_grad():
        probe.put(number + 1, small(hidden))
    first = canonical_names(work.residency.model)
    state = inner.state_dict(keep_vars=True)
    tensors = {f"{path}.{name}": tensor for name, tensor in state.items()}
    writer.add({n: t for n, t in tensors.items() if first.get(n, n) == n})
    kept = {name: mask.nonzero().reshape(-1).tolist() for name, mask in masks.items()}
    return {"kept": kept, "verified": verified, "compensation": done}


def _write_rest(work: Work, writer: ShardWriter) -> None:
    """Copy what is in no block, tensor by tensor, under the first name that the class gives it."""
    inside = tuple(f"{path}." for path in work.chain.paths)
    names: dict[str, list[str]] = {}
    for name, first in canonical_names(work.residency.model).items():
        names.setdefault(first, []).append(name)
    tensors = all_tensors(work.residency.model)
    kept = work.residency.model.state_dict(keep_vars=True)
    for first, all_names in names.items():
        if first.startswith(inside) or not any(name in kept for name in all_names):
            continue
        stored = next((name for name in all_names if name in work.folder), None)
        # A buffer that is not stored is as its class computes it.
        value = work.folder.read(stored) if stored is not None else tensors[first]
        writer.add({first: value.to(tensors[first].dtype) if value.is_floating_point() else value})
