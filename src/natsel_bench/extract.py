"""What extraction brings and costs: latency beside the ratio of MACs, and the time it takes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, call
from natsel.common.errors import first_line
from natsel.common.numbers import check_whole
from natsel.common.progress import Progress, silent
from natsel.common.timing import WARM_UP, batch_of, one_thread, quartiles, take_turns
from natsel.communities import discover
from natsel.extraction import CsrLinear, extract, verify
from natsel.fitness import score
from natsel.models import build
from natsel.runs import environment
from natsel.selection import MACs, select

SHARE = 0.5
BATCH_SIZES = (1, 64)
NEAR = 1.25
"""How far from the ratio of MACs a ratio of times may be where the time goes into products."""

COMPUTE_BOUND = 0.5
"""The share of this device's rate of products from which on time is said to go into products."""

SPARSITIES = (0.7, 0.8, 0.9, 0.95)
Build = tuple[str, tuple[int, int, int], dict[str, Any]]
NETWORKS: dict[str, Build] = {
    "784-512-256-10": ("mlp", (1, 28, 28), {}),
    "ResNet-20": ("resnet20", (3, 32, 32), {}),
    "ViT, 6 blocks of 192": ("vit", (3, 32, 32), {}),
}
SMALL: dict[str, Build] = {
    "64-32-16-10": ("mlp", (1, 8, 8), {"hidden": (32, 16)}),
    "ResNet-20, width 8": ("resnet20", (1, 8, 8), {"width": 8}),
    "ViT, 1 block of 32": ("vit", (1, 8, 8), {"dim": 32, "depth": 1, "heads": 4}),
}
DEEP = {"ViT-Small": (12, 3.0), "ViT-Small, 48 layers": (48, 12.0)}
"""Layers, and the seconds that discovery and extraction may take."""


def verdict(ratio: float, macs_ratio: float, *, rate: float) -> str:
    """Say plainly how a measured ratio stands to the ratio of MACs.

    Args:
        ratio: time of the small model relative to the dense one.
        macs_ratio: the same of their multiply-accumulates.
        rate: of the dense model's MACs per second, relative to those of a large product.

    Example:
        >>> verdict(0.55, 0.5, rate=1.0)
        'within 1.25 of the ideal'
        >>> verdict(0.9, 0.5, rate=0.1)
        'not compute-bound (10% of the rate of a large product): fewer MACs save less'
    """
    if ratio <= NEAR * macs_ratio:
        return f"within {NEAR} of the ideal"
    if rate < COMPUTE_BOUND:
        share = f"{rate:.0%} of the rate of a large product"
        return f"not compute-bound ({share}): fewer MACs save less"
    return f"{ratio / macs_ratio:.2f} of the ideal"


def passes(
    models: Mapping[str, nn.Module], inputs: Inputs, *, repeats: int
) -> dict[str, list[float]]:
    """Return milliseconds of processor time of passes in turn, after a few that warm up.

    With one thread on an idle machine that is what they last; on a busy one it still is.
    """
    steps = [partial(call, model, inputs) for model in models.values()]
    with torch.inference_mode():
        times = take_turns(steps, repeats=repeats, warm_up=WARM_UP)
    return {name: [1e3 * float(t) for t in times[:, i]] for i, name in enumerate(models)}


def in_turn(models: Mapping[str, nn.Module], inputs: Inputs, *, repeats: int) -> dict[str, float]:
    """Time two models in turn: the ratio of the second to the first, and both medians."""
    (first, before), (second, after) = passes(models, inputs, repeats=repeats).items()
    found = quartiles([b / a for a, b in zip(before, after, strict=True)])
    return found | {
        f"{first}_ms": float(np.median(before)),
        f"{second}_ms": float(np.median(after)),
    }


def latency_rows(
    networks: Mapping[str, Build],
    *,
    repeats: int,
    compiled: bool,
    multiple_of: int,
    step: Callable[[], None],
) -> list[dict[str, Any]]:
    """Cut networks to half of their MACs and time them beside the dense ones.

    Raises:
        ArithmeticError: if a small model differs from the masked one.
    """
    rows: list[dict[str, Any]] = []
    peak = product_rate(repeats)
    for network, (name, shape, options) in networks.items():
        model = build(name, in_shape=shape, num_classes=10, **options).eval()
        inputs = (torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)),)
        communities = discover(model, inputs)
        scores = score(communities, "magnitude")
        survivors = select(scores, MACs(SHARE), multiple_of=multiple_of)
        small = extract(model, survivors)
        verify(model, small, survivors, inputs).require()
        price = communities.price(survivors).macs / communities.price().macs
        mine: list[dict[str, Any]] = []
        for mode in ("eager", "compile") if compiled else ("eager",):
            for batch_size in BATCH_SIZES:
                step()
                row: dict[str, Any] = {"network": network, "mode": mode, "batch_size": batch_size}
                models = {"dense": model, "small": small}
                batch = batch_of(inputs, batch_size)
                mine.append(row | {"macs_ratio": price} | _timed(models, batch, mode, repeats))
        for row in (r for r in mine if not r["missing"]):
            macs = communities.price().macs * row["batch_size"]
            row["rate"] = macs / row["dense_ms"] / peak
            row["verdict"] = verdict(row["ratio"], price, rate=row["rate"])
        rows += mine
    return rows


def product_rate(repeats: int) -> float:
    """Return how many multiply-accumulates a large product makes in a millisecond here."""
    size = 1024
    models = {"product": nn.Linear(size, size, bias=False)}
    times = passes(models, (torch.randn(size // 2, size),), repeats=repeats)
    return size * size * (size // 2) / min(times["product"])


def _timed(
    models: Mapping[str, nn.Module], inputs: Inputs, mode: str, repeats: int
) -> dict[str, Any]:
    if mode == "eager":
        return {"missing": ""} | in_turn(models, inputs, repeats=repeats)
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        return {
            "missing": "torch.compile needs a C++ compiler, and neither g++ nor clang++ is here"
        }
    try:
        torch.compiler.reset()
        compiled = {name: _compiled(model) for name, model in models.items()}
        return {"missing": ""} | in_turn(compiled, inputs, repeats=repeats)
    except Exception as error:  # noqa: BLE001 - compilers fail in many ways; the message is the row
        return {"missing": f"torch.compile failed: {first_line(error)}"}


def _compiled(model: nn.Module) -> nn.Module:
    compiled: Any = torch.compile(model, dynamic=False)
    assert isinstance(compiled, nn.Module)
    return compiled


def csr_rows(*, size: int, repeats: int, step: Callable[[], None]) -> list[dict[str, Any]]:
    """Time a Linear in compressed rows beside the dense one, both with the same zeros.

    Raises:
        ArithmeticError: if the two differ.
    """
    rows = []
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH_SIZES[-1], size, generator=generator)
    for sparsity in SPARSITIES:
        step()
        linear = nn.Linear(size, size)
        mask = torch.rand(size, size, generator=generator) >= sparsity
        with torch.no_grad():
            linear.weight.mul_(mask)
        compressed = CsrLinear.of(linear, mask)
        _check_equal(linear, compressed, x)
        row: dict[str, Any] = {"size": size, "batch_size": len(x), "sparsity": sparsity}
        models = {"dense": linear, "csr": compressed}
        rows.append(row | in_turn(models, (x,), repeats=repeats))
    return rows


def _check_equal(linear: nn.Module, compressed: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        if not torch.allclose(linear(x), compressed(x), rtol=1e-4, atol=1e-5):
            raise ArithmeticError("a Linear in compressed rows differs from the masked one")


def depth_rows(*, repeats: int, step: Callable[[], None]) -> list[dict[str, Any]]:
    """Time discovery and extraction of deep vision transformers, in processor seconds."""
    rows = []
    for network, (depth, limit) in DEEP.items():
        model = build(
            "vit",
            in_shape=(3, 224, 224),
            num_classes=1000,
            dim=384,
            depth=depth,
            heads=6,
            patch=16,
        ).eval()
        inputs = (torch.randn(1, 3, 224, 224),)
        times = []
        for _ in range(repeats):
            step()
            start = time.process_time()
            communities = discover(model, inputs)
            found = time.process_time() - start
            survivors = select(score(communities, "magnitude"), MACs(SHARE))
            start = time.process_time()
            extract(model, survivors)
            times.append((found, time.process_time() - start))
        both = [sum(pair) for pair in times]
        rows.append(
            {
                "network": network,
                "layers": depth,
                "parameters": sum(p.numel() for p in model.parameters()),
                "discover_s": float(np.median([t[0] for t in times])),
                "extract_s": float(np.median([t[1] for t in times])),
                "seconds": float(np.median(both)),
                "low": min(both),
                "high": max(both),
                "limit": limit,
            }
        )
    return rows


def bench_extract(
    *,
    repeats: int = 60,
    compiled: bool = True,
    quick: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure extracted models beside dense ones, and how long extraction takes; one thread.

    Times are of the processor, with one thread.

    Args:
        repeats: passes of each model, in turn.
        compiled: also with torch.compile.
        quick: two passes of small networks, eager: only that extracted = masked.
        progress: called between measurements.

    Returns:
        Rows of latency, of layers in compressed rows, and of extraction itself.

    Raises:
        ValueError: if an argument is not allowed.
        ArithmeticError: if what was extracted differs from what was masked.
    """
    check_whole("repeats", repeats)
    networks = SMALL if quick else NETWORKS
    compiled = compiled and not quick
    passes = 2 if quick else repeats
    num_modes = 2 if compiled else 1
    deep_repeats = 3
    total = len(networks) * len(BATCH_SIZES) * num_modes + len(SPARSITIES)
    total += 0 if quick else len(DEEP) * deep_repeats
    done = 0

    def step() -> None:
        nonlocal done
        progress("bench extract", done, total)
        done += 1

    with one_thread():
        latency = latency_rows(
            networks,
            repeats=passes,
            compiled=compiled,
            multiple_of=1 if quick else 8,
            step=step,
        )
        csr = csr_rows(size=64 if quick else 1024, repeats=passes, step=step)
        depth = [] if quick else depth_rows(repeats=deep_repeats, step=step)
    progress("bench extract", total, total)
    return {
        "bench": "extract",
        "quick": quick,
        "latency": latency,
        "csr": csr,
        "depth": depth,
        **environment.record(),
    }
