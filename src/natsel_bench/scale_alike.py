"""Whether two processes come to what one does with the same global batch, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from natsel.common.files import load_tree, save_tree
from natsel.common.sharding.local import whole
from natsel.communities import discover
from natsel.evolution import Evolution
from natsel.extraction import extract
from natsel.fitness import score
from natsel.models import build
from natsel.selection import Sparsity
from natsel_bench.in_processes import WORLD, in_processes

Way = Literal["DistributedDataParallel", "fully_shard"]
WAYS: tuple[Way, ...] = ("DistributedDataParallel", "fully_shard")
STEPS = 30
SIZE = 8
"""Images of one process in a step."""
SCORERS = ("taylor", "wanda")
HARSH: dict[str, Any] = {"rate": 0.5, "capacity": 0.5, "patience": 3}


def alike() -> list[dict[str, Any]]:
    """Return one row for each way: how far masses, scores and the small model are from one process.

    The network is a small vision transformer on random images; its neurons and heads evolve for
    some steps of Adam, half of what is left is removed with the state of the optimizer.
    """
    expected = _findings(None, None)
    rows = []
    for way in WAYS:
        found = in_processes(_work, way, read=_read)
        rows.append(
            {
                "way": way,
                "network": "ViT of width 32 and depth 2, float64",
                "processes": WORLD,
                "steps": STEPS,
                "populations": sum(len(mask) for mask in expected["survivors"].values()),
                "removed": sum(int((~mask).sum()) for mask in expected["survivors"].values()),
                "same_survivors": all(
                    bool(torch.equal(each["survivors"][name], mask))
                    for each in found
                    for name, mask in expected["survivors"].items()
                ),
                **{
                    f"{part}_difference": max(_apart(each[part], expected[part]) for each in found)
                    for part in ("masses", *SCORERS, "small")
                },
            }
        )
    return rows


def _apart(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest difference, relative to the largest number of its tensor."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - tensor).abs().max() / tensor.abs().max().clamp_min(1e-300))
        for name, tensor in expected.items()
    )


def _work(rank: int, folder: str, way: Way) -> None:
    save_tree(Path(folder) / f"{rank}.safetensors", _findings(rank, way))


def _read(folder: str) -> list[dict[str, Any]]:
    return [load_tree(Path(folder) / f"{rank}.safetensors") for rank in range(WORLD)]


def _findings(rank: int | None, way: Way | None) -> dict[str, Any]:
    options: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "patch": 4}
    model = build("vit", in_shape=(3, 16, 16), num_classes=10, seed=0, **options).double()
    communities = discover(model, (_batch(0, 0)[0],))
    trained: nn.Module = model
    if way == "fully_shard":
        blocks = max(
            (m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential)),
            key=lambda m: sum(p.numel() for p in m.parameters()),
        )
        for block in blocks:
            fully_shard(block)
        fully_shard(model)
    elif way is not None:
        trained = DistributedDataParallel(model)
    evolution = Evolution(communities, **HARSH)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    evolution.attach(optimizer)
    ranks = range(WORLD) if rank is None else (rank,)
    for step in range(STEPS):
        parts = [_batch(step, each) for each in ranks]
        inputs, labels = (torch.cat(each) for each in zip(*parts, strict=True))
        optimizer.zero_grad()
        loss = F.cross_entropy(trained(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    data = [_batch(STEPS + each, each) for each in ranks]
    group = None if rank is None else "default"
    scores = {name: dict(score(communities, name, data=data, group=group)) for name in SCORERS}
    survivors = evolution.survivors(Sparsity(0.5))
    small = extract(model, survivors, optimizer=optimizer)
    state = {name: whole(tensor).detach().clone() for name, tensor in small.state_dict().items()}
    return {**scores, "masses": evolution.masses, "survivors": dict(survivors), "small": state}


def _batch(step: int, rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    x = torch.randn(SIZE, 3, 16, 16, generator=generator, dtype=torch.float64)
    return x, torch.randint(10, (SIZE,), generator=generator)
