"""What a data-aware score costs: against the bare passes over the same batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.hooks import as_rows, entering, watching
from natsel.common.modes import evaluating
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.common.timing import one_thread, quartiles, take_turns
from natsel.communities import Communities, discover
from natsel.communities.gates.gates import gated_slices
from natsel.communities.tensors import owner
from natsel.fitness import FITNESS, score
from natsel.fitness.parts import PartsReader, input_axis
from natsel.models import build
from natsel.runs import environment
from natsel_bench.step import peak_memory

SCORERS = ("wanda", "variance", "taylor", "contribution", "joint")
NETWORKS: dict[str, tuple[str, tuple[int, int, int], int, dict[str, Any]]] = {
    "784-512-256-10": ("mlp", (1, 28, 28), 128, {}),
    "ResNet-20": ("resnet20", (3, 32, 32), 32, {}),
    "ViT, 4 blocks of 96": ("vit", (3, 32, 32), 32, {"dim": 96, "depth": 4, "heads": 3}),
}
"""Name, input shape, batch size and options of each network."""

Batches = Sequence[tuple[Tensor, Tensor]]


def bare(model: nn.Module, data: Batches, *, backward: bool) -> None:
    """Run the passes that a score cannot do without, and nothing else."""
    with evaluating(model), torch.set_grad_enabled(backward):
        for inputs, labels in data:
            output = model(inputs)
            if backward:
                loss: Tensor = F.cross_entropy(output, labels)
                loss.backward()  # type: ignore[no-untyped-call]
                model.zero_grad()


def cost(
    plain: Callable[[], object], scoring: Callable[[], object], *, repeats: int
) -> dict[str, float]:
    """Take the processor time of two functions in turn.

    Args:
        plain: what to compare with.
        scoring: what to measure.
        repeats: pairs that are timed, after two that are not.

    Returns:
        The median of the pairwise ratios, its quartiles, and the plain median in milliseconds.
    """
    times = take_turns((plain, scoring), repeats=repeats + 2)[2:]
    return quartiles(times[:, 1] / times[:, 0]) | {"plain_ms": float(np.median(times[:, 0]) * 1e3)}


def brute_force(communities: Communities, scorer: str, data: Batches) -> dict[str, Tensor]:
    """Score by keeping all that enters every consumer, in float64: what a stream must equal.

    Args:
        communities: whose populations to score.
        scorer: one of ``SCORERS``.
        data: the batches.

    Returns:
        ``{community: tensor [size]}``.
    """
    fitness, reader = FITNESS[scorer], PartsReader(communities)
    ones = [torch.ones(c.size) for c in communities.values()]
    with evaluating(communities.model):
        if fitness.needs_gradient:
            signals = []
            for inputs, labels in data:
                loss = F.cross_entropy(communities.model(inputs), labels)
                weights = reader.weights()
                found = torch.autograd.grad(loss, weights)
                by_id = {id(w): g for w, g in zip(weights, found, strict=True)}
                with torch.no_grad():
                    signals.append(
                        [
                            fitness.signal(reader.read(i, m, lambda p, g=by_id: g[id(p)]))  # type: ignore[misc]
                            for i, m in enumerate(ones)
                        ]
                    )
            values = [sum(s) / len(data) for s in zip(*signals, strict=True)]
        else:
            assert fitness.statistic is not None
            entered = _entered(communities, data)
            statistics = {k: _statistic(rows, fitness.statistic) for k, rows in entered.items()}
            with torch.no_grad():
                values = [
                    fitness.signal(reader.read(i, m, lambda _: None, statistics))
                    for i, m in enumerate(ones)
                ]
    return {n: torch.as_tensor(v).float() for n, v in zip(communities, values, strict=True)}


def _entered(communities: Communities, data: Batches) -> dict[tuple[str, int], Tensor]:
    """Return everything that enters each consumer, as rows in float64."""
    kept: dict[tuple[str, int], list[Tensor]] = {}
    modules = {
        (part.tensor, part.axis): owner(communities.model, part.tensor)[0]
        for community in communities.values()
        for part in gated_slices(community)
    }

    def keep(key: tuple[str, int], args: tuple[Any, ...], named: dict[str, Any]) -> None:
        axis = input_axis(modules[key])
        assert axis is not None
        kept.setdefault(key, []).append(as_rows(entering(args, named).double(), axis))

    with torch.no_grad(), watching(modules, keep):
        for inputs, _ in data:
            communities.model(inputs)
    return {key: torch.cat(rows) for key, rows in kept.items()}


def _statistic(rows: Tensor, statistic: str) -> Tensor:
    if statistic == "variance":
        return rows.var(0, correction=0)
    return rows.T @ rows / len(rows) if statistic == "products" else rows.square().mean(0)


def bench_score(
    *,
    repeats: int = 9,
    batches: int = 16,
    quick: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure scores against the bare passes over the same batches, in one process, one thread.

    Processor time, so that what else the machine does counts less. The bare passes run the model in
    evaluation mode; of a scorer that reads gradients they are forward and backward.

    Args:
        repeats: pairs of a score and the bare passes.
        batches: how many batches a score reads.
        quick: two repeats on one batch: only that scores are right.
        progress: called between measurements.

    Returns:
        One row per network and scorer, with the hardware and versions.

    Raises:
        ValueError: if an argument is not allowed.
        ArithmeticError: if a score differs from the one by brute force.
    """
    for name, value in (("repeats", repeats), ("batches", batches)):
        check_whole(name, value)
    if quick:
        repeats, batches = 2, 1
    rows: list[dict[str, Any]] = []
    with one_thread():
        for network, (name, shape, batch_size, options) in NETWORKS.items():
            model = build(name, in_shape=shape, num_classes=10, **options)
            generator = torch.Generator().manual_seed(0)
            data = [
                (
                    torch.randn(batch_size, *shape, generator=generator),
                    torch.randint(10, (batch_size,), generator=generator),
                )
                for _ in range(batches)
            ]
            communities = discover(model, (data[0][0][:2],))
            for scorer in SCORERS:
                progress("bench score", len(rows), len(NETWORKS) * len(SCORERS))
                row: dict[str, Any] = {"network": network, "scorer": scorer}
                row |= {"batch_size": batch_size, "batches": batches}
                rows.append(row | _measured(communities, scorer, data, repeats))
    progress("bench score", len(rows), len(rows))
    return {
        "bench": "score",
        "quick": quick,
        "rows": rows,
        **environment.record(),
    }


def _measured(
    communities: Communities, scorer: str, data: Batches, repeats: int
) -> dict[str, float]:
    _check(communities, scorer, data[:1])
    backward = FITNESS[scorer].needs_gradient

    def plain() -> None:
        bare(communities.model, data, backward=backward)

    def scoring() -> None:
        score(communities, scorer, data=data)

    memory = [peak_memory(step) for step in (plain, scoring)]
    return cost(plain, scoring, repeats=repeats) | {
        "plain_bytes": memory[0],
        "extra_bytes": memory[1] - memory[0],
    }


def _check(communities: Communities, scorer: str, data: Batches) -> None:
    ours, theirs = score(communities, scorer, data=data), brute_force(communities, scorer, data)
    for name, value in ours.items():
        # Where steps of an elimination are close, rounding may exchange two of them.
        pair = (
            (value, theirs[name])
            if scorer != "joint"
            else (value.sort()[0], theirs[name].sort()[0])
        )
        largest = float(theirs[name].abs().max())
        if not torch.allclose(*pair, rtol=1e-4, atol=1e-5 * largest):
            raise ArithmeticError(f"scorer {scorer!r} differs from brute force in {name!r}")
