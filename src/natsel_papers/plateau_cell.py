"""One cell of a plateau study: every method selects on the search split, all meet on held-out."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from natsel.adaptive.adaptive import STATISTIC, adapt
from natsel.adaptive.arena import Arena, key_of
from natsel.adaptive.searching import search_weights
from natsel.common.errors import refuse
from natsel.communities import Communities, discover
from natsel.extraction import extract
from natsel.features import Feature, feature_class, fuse, matrices
from natsel.features.complexity import measure, mutual_information, rank_correlation
from natsel.features.fusion import feature_matrix
from natsel.features.ranks import ranks
from natsel.fitness import score
from natsel.runs.material import open_for
from natsel.runs.measure import predictions
from natsel.runs.oneshot import calibration
from natsel.runs.splits import Splits
from natsel.selection import Sparsity, Survivors, select
from natsel_papers.importances import importances
from natsel_papers.plateau_grid import PEER, PLATEAU, RANDOM_SEARCHED, Cell

MONOTONE = ("l1", "log-l2")
DATA_AWARE = ("taylor", "wanda", "variance", "contribution", "joint")
WITHOUT_RANKS = ("magnitude-in", "taylor")
"""Scorers that are also compared raw, across layers: the control of per-layer normalisation."""


def run_cell(cell: Cell) -> dict[str, Any]:
    """Cut one network to one sparsity by every method, and see what each gets right.

    Args:
        cell: what to do.

    Returns:
        Plain data: for each method its held-out predictions (packed), search accuracy, cost of the
        search, and a digest of its survivors.
    """
    started = time.perf_counter()
    opened, splits = open_for(cell.network, cell.data, cell.seed)
    assert splits is not None
    device = torch.device(cell.device)
    opened.model.to(device)
    found = discover(opened.model, (splits.train[0][:2].to(device),))
    communities = found.only(*cell.kinds)
    parts = {
        name: (inputs.to(device), labels.to(device))
        for name, (inputs, labels) in split_images(cell, splits).items()
    }
    held, search = (Arena(communities, *parts[name]) for name in ("held", "search"))
    num_predicted = len(held.predicted_classes())
    if num_predicted < 2:
        refuse("network", cell.network, "a model that predicts more than one class")
    data = [(x.to(device), y.to(device)) for x, y in calibration(splits, cell.seed)]
    selected = _selections(cell, communities, search, data)
    generator = torch.Generator().manual_seed(cell.seed)
    adapted = adapt(
        communities,
        Sparsity(cell.sparsity),
        *parts["adaptive"],
        calibration=data,
        generator=generator,
    )
    selected["adaptive"] = (adapted.survivors, {"adaptive": adapted.plain()})
    rows: dict[str, dict[str, Any]] = {}
    for name, (survivors, more) in selected.items():
        right = held.correct(survivors)
        rows[name] = {"correct": pack(right), "key": key_of(survivors)[:16], **more}
    if cell.compensate:
        for name in (PLATEAU, "adaptive"):
            small = extract(
                opened.model, whole(selected[name][0], found), verify=False, compensate=data
            )
            rows[f"{name}, compensated"] = {
                "correct": pack(predictions(small, *parts["held"])),
                "key": rows[name]["key"],
            }
    kept = whole(selected[PLATEAU][0], found)
    small = extract(opened.model, kept, verify=False)
    return {
        "seed": cell.seed,
        "sparsity": cell.sparsity,
        "dense": pack(held.dense()),
        "methods": rows,
        "extracted_equals_masked": float(
            (predictions(small, *parts["held"]) == held.correct(selected[PLATEAU][0]))
            .double()
            .mean()
        ),
        "independence": _independence(cell, communities),
        "num_held": len(held),
        "num_classes_predicted": num_predicted,
        "seconds": time.perf_counter() - started,
    }


def whole(survivors: Mapping[str, Tensor], communities: Communities) -> Survivors:
    """Return survivors of some communities as survivors of all: the others lose nothing."""
    return Survivors({**communities.full(), **survivors}, communities)


def split_images(cell: Cell, splits: Splits) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the search, adaptive and held-out samples of a cell.

    Search and adaptive ones are parts of the validation split, which may overlap: neither is
    reported on. Held-out ones are of the test split.

    Raises:
        ValueError: if there are too few, or a held-out sample is also one that is chosen on.
    """
    inputs, labels = splits.validation
    for argument in ("search_images", "adaptive_images"):
        if getattr(cell, argument) > len(inputs):
            allowed = f"at most {len(inputs)}, the validation split"
            refuse(argument, getattr(cell, argument), allowed)
    if cell.held_images > len(splits.test[0]):
        refuse("held_images", cell.held_images, f"at most {len(splits.test[0])}, the test split")
    generator = torch.Generator().manual_seed(cell.seed)
    order = torch.randperm(len(inputs), generator=generator)
    search, adaptive = order[: cell.search_images], order[-cell.adaptive_images :]
    held = tuple(t[: cell.held_images] for t in splits.test)
    overlap = contents(held[0]) & (contents(inputs[search]) | contents(inputs[adaptive]))
    if overlap:
        found = f"a test split with {len(overlap)} samples that are also searched on"
        refuse("data", found, "two splits without a common sample")
    return {
        "search": (inputs[search], labels[search]),
        "adaptive": (inputs[adaptive], labels[adaptive]),
        "held": (held[0], held[1]),
    }


def contents(inputs: Tensor) -> set[int]:
    """Return a checksum of each sample."""
    return {zlib.crc32(x.contiguous().numpy().tobytes()) for x in inputs}


def pack(correct: Tensor) -> str:
    """Write a vector of booleans in hexadecimal, eight to a byte."""
    return np.packbits(correct.cpu().numpy()).tobytes().hex()


def unpack(text: str, count: int) -> Tensor:
    """Read what :func:`pack` wrote.

    Example:
        >>> unpack(pack(torch.tensor([True, False, True])), 3)
        tensor([ True, False,  True])
    """
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))
    return torch.from_numpy(bits[:count].astype(bool))


Selected = dict[str, tuple[Survivors, dict[str, Any]]]


def _selections(
    cell: Cell, communities: Communities, search: Arena, data: list[tuple[Tensor, Tensor]]
) -> Selected:
    """Let every method select; nothing here sees a held-out sample."""
    statistics = score(communities, STATISTIC)

    def decide(scores: Mapping[str, Tensor]) -> Survivors:
        return select(scores, Sparsity(cell.sparsity), communities=communities)

    def raw(scores: Mapping[str, Tensor]) -> Survivors:
        return select(
            scores,
            Sparsity(cell.sparsity),
            communities=communities,
            scope="global",
            normalize=None,
        )

    chosen: Selected = {}
    draws = torch.Generator().manual_seed(cell.seed)
    chosen["random"] = (
        decide({n: torch.rand(c.size, generator=draws) for n, c in communities.items()}),
        {},
    )
    for name in MONOTONE:
        chosen[name] = (decide(score(communities, name)), {})
    for name in cell.classes:
        chosen |= _of_class(cell, name, statistics, search, decide)
    for name in DATA_AWARE:
        scores = score(communities, name, data=data)
        chosen[name] = (decide(scores), {})
        if name in WITHOUT_RANKS:
            chosen[f"{name}, raw and global"] = (raw(scores), {})
    chosen[f"{STATISTIC}, raw and global"] = (raw(statistics), {})
    for name, found in importances(communities, data).items() if cell.peers else ():
        # Its importances come divided by their mean in each layer: so it compares them globally.
        chosen[f"{PEER} {name}"] = (decide(found), {})
        chosen[f"{PEER} {name}, global"] = (raw(found), {})
    for name, (survivors, more) in chosen.items():
        if "search_accuracy" not in more:
            chosen[name] = (survivors, {**more, "search_accuracy": search.accuracy(survivors)})
    return chosen


def _of_class(
    cell: Cell, name: str, statistics: Mapping[str, Tensor], search: Arena, decide: Any
) -> Selected:
    """Select by a feature class: equal weights, and searched ones where there are several."""
    made = feature_class(name, seed=cell.seed)
    phi = matrices(statistics, made.features)
    alone = len(made.features) == 1
    chosen: Selected = {name if alone else f"{name}, equal": (decide(fuse(phi)), {})}
    methods = {name: cell.optimizer}
    if name == RANDOM_SEARCHED:
        methods[f"{name}, random search"] = "random"
    for label, method in methods.items() if not alone else ():
        found = search_weights(
            search,
            phi,
            decide,
            method=method,
            generations=cell.generations,
            population=cell.population,
            generator=torch.Generator().manual_seed(cell.seed),
        )
        grid = torch.linspace(0, 1, 512, dtype=torch.float64)
        fused = _fused(made.features, found.weights, grid)
        chosen[label] = (
            found.survivors,
            {
                "search_accuracy": found.accuracy,
                "weights": [float(w) for w in found.weights],
                "images": found.images,
                "evaluations": found.evaluations,
                "fused_kappa": measure(partial(_fused, made.features, found.weights)).kappa,
                "kept_ranks": _kept_ranks(found.survivors, statistics),
                "curve": [round(float(v), 4) for v in fused[::8]],
            },
        )
    return chosen


def _fused(features: Sequence[Feature], weights: Tensor, u: Tensor) -> Tensor:
    return feature_matrix(u, features) @ weights


def _kept_ranks(survivors: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> list[float]:
    """Return which share of each twentieth of the ranks survives, over all communities."""
    kept, there = torch.zeros(20), torch.zeros(20)
    for name, mask in survivors.items():
        bins = (ranks(statistics[name]) * 20).long().clamp(max=19)
        kept += torch.bincount(bins, mask.float(), minlength=20)
        there += torch.bincount(bins, minlength=20)
    return [round(float(v), 4) for v in kept / there.clamp_min(1)]


def _independence(cell: Cell, communities: Communities) -> dict[str, dict[str, float]]:
    """Return how much each feature tells of the magnitude's rank, at the size of a community."""
    size = max(c.size for c in communities.values())
    u = torch.linspace(0, 1, size, dtype=torch.float64)
    features = {
        f.name: f.function(u)
        for name in cell.classes
        for f in feature_class(name, seed=cell.seed).features
    }
    return {
        name: {
            "rank_correlation": rank_correlation(values, u),
            "mutual_information": mutual_information(values, u),
        }
        for name, values in features.items()
    }
