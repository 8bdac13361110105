"""Everything that is tried with one model of the zoo, in the process that calls it."""

from __future__ import annotations

import copy
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import natsel
from natsel.common.calls import Inputs, call, outputs_of, tensors_of_inputs, with_tensors
from natsel.communities import Communities
from natsel_bench.peers.reference import distinct_
from natsel_bench.zoo.beside import peer, words
from natsel_bench.zoo.catalog import CATALOG
from natsel_bench.zoo.catalog.entry import Entry
from natsel_bench.zoo.masked import (
    as_selected,
    difference,
    gone_from,
    in_float64,
    is_exact,
    masked,
    outputs,
)
from natsel_bench.zoo.uses import generate, train

SELECTIONS = ("even", "uneven", "one kept", "one removed")
PLACES = 3
"""How many places that stay whole are named for each reason."""
SAVED = "saved"
RAN = "ran.safetensors"

Row = dict[str, Any]


def build(entry: Entry, seed: int) -> tuple[nn.Module, Inputs, Inputs]:
    """Build a model with weights that all differ, its inputs, and inputs of another shape.

    Args:
        entry: of the catalogue.
        seed: of weights and inputs.

    Returns:
        The model in evaluation mode, example inputs, and fresh ones of another batch, and of
        another size where the dense model itself allows it.
    """
    torch.default_generator.manual_seed(seed)
    model = entry.build().eval()
    own = copy.deepcopy(model.state_dict())
    distinct_(model, seed=seed)
    inputs = entry.inputs(2, 0)
    if not _finite(model, inputs):
        model.load_state_dict(own)
        _nearly(model, seed)
    return model, inputs, _fresh(model, entry)


def _finite(model: nn.Module, inputs: Inputs) -> bool:
    with torch.no_grad():
        found = [x for x in outputs_of(call(model, inputs)) if x.is_floating_point()]
    return all(bool(x.isfinite().any()) and not bool(x.isnan().any()) for x in found)


def _nearly(model: nn.Module, seed: int) -> None:
    """Give a model that does not bear other weights its own, each with a difference of its own."""
    twin = distinct_(copy.deepcopy(model), seed=seed)
    with torch.no_grad():
        for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
            mine.add_(0.05 * other)


def _fresh(model: nn.Module, entry: Entry) -> Inputs:
    for batch, step in ((3, 1), (3, 0), (2, 0)):
        inputs = entry.inputs(batch, step)
        if _runs(model, inputs):
            return inputs
    return entry.inputs(2, 0)


def _runs(model: nn.Module, inputs: Inputs) -> bool:
    try:
        with torch.no_grad():
            call(model, inputs)
    except Exception:  # noqa: BLE001 - however it fails, it does not run on this shape
        return False
    return True


def run_here(name: str, seed: int, folder: Path) -> Row:
    """Try one model: find, remove, compare, save, train, generate; and a peer beside.

    Args:
        name: of the catalogue.
        seed: of everything random.
        folder: an empty one, for what is saved; :func:`load_here` reads it in another process.

    Returns:
        The row, without what :func:`load_here` says.
    """
    entry = CATALOG[name]
    try:
        model, inputs, fresh = build(entry, seed)
        with torch.no_grad():
            ran = [outputs_of(call(model, inputs)) for _ in range(2)]
    except Exception as error:  # noqa: BLE001 - whatever stands in the way is what the row says
        return {"outcome": "not built", "reason": _said(error)}
    row: Row = {"class": type(model).__name__, "parameters": _count(model)}
    if not all(torch.equal(a, b) for a, b in zip(*ran, strict=True)):
        random = "it draws random numbers in evaluation mode: two runs differ"
        return row | {"outcome": "random", "reason": random}
    row["fresh"] = [list(x.shape) for x in tensors_of_inputs(fresh)]
    dense = copy.deepcopy(model)
    start = time.process_time()
    try:
        communities = natsel.discover(model, inputs)
    except ValueError as error:
        exported = "cannot be exported" in str(error)
        outcome = "not exported" if exported else "refused"
        return row | {"outcome": outcome, "reason": str(error), **peer(dense, inputs)}
    row["discover_s"] = time.process_time() - start
    row |= _whole(communities)
    if not communities:
        return row | {"outcome": "refused", "reason": "", **peer(dense, inputs)}
    row["selections"] = {}
    before = outputs(in_float64(dense), fresh)
    for which in SELECTIONS:
        row["selections"][which], small = _selection(
            dense, communities, which, (fresh, before), seed, row
        )
        if which == "even" and small is not None:
            row |= _saved(small, fresh, folder)
            row["train"] = _try(train, copy.deepcopy(small), fresh)
            if entry.generates:
                row["generate"] = _try(generate, dense, small, fresh)
    row["unchanged"] = all(
        torch.equal(a, b) for a, b in zip(dense.parameters(), model.parameters(), strict=True)
    )
    row["mispriced"] = [which for which, s in row["selections"].items() if s.get("price")]
    row |= _outcome(row)
    return row | peer(dense, inputs)


def _selection(
    dense: nn.Module,
    communities: Communities,
    which: str,
    compared: tuple[Inputs, list[Tensor]],
    seed: int,
    row: Row,
) -> tuple[Row, nn.Module | None]:
    survivors = choose_survivors(communities, which, seed)
    start = time.process_time()
    try:
        small = natsel.extract(communities.model, natsel.Survivors(survivors, communities))
    except Exception as error:  # noqa: BLE001 - what extraction says is what the row says
        return {"outcome": "refused", "reason": _said(error)}, None
    if which == "even":
        row["extract_s"] = time.process_time() - start
    share = 1 - _count(small) / row["parameters"]
    if which == "one kept":
        row["removable"] = share
    found: Row = {"share": share}
    if apart := communities.price(survivors).parameters - _count(small):
        found["price"] = apart
    try:
        return found | _judged(dense, small, communities, survivors, *compared), small
    except Exception as error:  # noqa: BLE001 - a small model that does not run is a wrong one
        return found | {"outcome": "broken", "reason": _said(error)}, small


def choose_survivors(communities: Communities, which: str, seed: int) -> dict[str, Tensor]:
    """Return one mask a community: half, a random share, as few as may be, or all but one.

    Args:
        communities: of a model.
        which: one of ``SELECTIONS``.
        seed: of the choice.
    """
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, community in communities.items():
        size, least = community.size, community.minimum
        counts = {"even": size - size // 2, "one kept": least, "one removed": size - 1}
        share = float(torch.rand((), generator=generator))
        count = max(least, counts.get(which, round(share * size)))
        mask = torch.zeros(size, dtype=torch.bool)
        mask[torch.randperm(size, generator=generator)[:count]] = True
        masks[name] = mask
    return masks


def _judged(
    dense: nn.Module,
    small: nn.Module,
    communities: Communities,
    survivors: Mapping[str, Tensor],
    fresh: Inputs,
    before: list[Tensor],
) -> Row:
    gone = gone_from(dense, small)
    if missing := as_selected(communities, survivors, gone):
        return {"outcome": "wrong", "reason": missing}
    twin, closed = masked(dense, gone)
    theirs = outputs(twin, fresh, closed=closed)
    ours = outputs(in_float64(small), fresh)
    try:
        found = difference(ours, theirs, before)
    except ValueError as error:
        return {"outcome": "wrong", "reason": str(error)}
    return {"outcome": "exact" if is_exact(found) else "wrong", **found}


def _outcome(row: Row) -> Row:
    found = [s["outcome"] for s in row["selections"].values()]
    for outcome in ("wrong", "broken", "refused"):
        if outcome in found:
            which = SELECTIONS[found.index(outcome)]
            reason = row["selections"][which].get("reason", "")
            return {"outcome": outcome, "reason": f"{which}: {reason}" if reason else which}
    return {"outcome": "exact", "reason": ""}


def _whole(communities: Communities) -> Row:
    """What is offered, and what is left whole and why."""
    reasons: dict[str, list[str]] = {}
    for refusal in communities.refused:
        reasons.setdefault(refusal.reason, []).append(f"{refusal.name} ({refusal.size})")
    return {
        "communities": len(communities),
        "kinds": dict(Counter(c.kind for c in communities.values())),
        "populations": communities.num_populations,
        "whole": [
            {"reason": why, "where": where[:PLACES], "places": len(where)}
            for why, where in reasons.items()
        ],
        "barriers": list(communities.barriers),
    }


def _saved(small: nn.Module, fresh: Inputs, folder: Path) -> Row:
    try:
        natsel.save(small, folder / SAVED)
        with torch.no_grad():
            found = [x for x in outputs_of(call(small, fresh)) if x.is_floating_point()]
    except Exception as error:  # noqa: BLE001 - why it is not saved is what the row says
        return {"load": _said(error)}
    held = {f"in{i}": x.contiguous() for i, x in enumerate(tensors_of_inputs(fresh))}
    held |= {f"out{i}": x.clone().contiguous() for i, x in enumerate(found)}
    save_file(held, folder / RAN)
    return {"load": None}


def load_here(name: str, seed: int, folder: Path) -> Row:
    """Load what :func:`run_here` saved, in a process that never saw it, and run it.

    Args:
        name: of the catalogue.
        seed: of the run.
        folder: that it saved to.

    Returns:
        ``load``: "alone", "with the class" (a dense model was needed), or what went wrong.
    """
    if not (folder / RAN).is_file():
        return {}
    held = load_file(folder / RAN)
    entry = CATALOG[name]
    torch.default_generator.manual_seed(seed)
    tensors = [held[f"in{i}"] for i in range(sum(key.startswith("in") for key in held))]
    inputs = with_tensors(entry.inputs(2, 0), tensors)
    try:
        try:
            small, how = natsel.load(folder / SAVED), "alone"
        except ValueError:
            small, how = natsel.load(folder / SAVED, model=entry.build()), "with the class"
        with torch.no_grad():
            found = [x for x in outputs_of(call(small, inputs)) if x.is_floating_point()]
    except Exception as error:  # noqa: BLE001 - why it does not load is what the row says
        return {"load": _said(error)}
    same = all(torch.equal(x, held[f"out{i}"]) for i, x in enumerate(found))
    return {"load": how if same else "it computes something else"}


def _try(what: Callable[..., str], *args: Any) -> str:
    try:
        return what(*args)
    except Exception as error:  # noqa: BLE001 - what goes wrong is what the row says
        return _said(error)


def _said(error: Exception) -> str:
    """Return what an error says; where memory does not suffice, that ends the row."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        raise MemoryError from error
    return words(error)


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def quietly() -> None:
    """Leave out what libraries say about themselves."""
    warnings.simplefilter("ignore")
