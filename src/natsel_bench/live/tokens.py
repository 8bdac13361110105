"""``natsel bench tokens``: what thinning the tokens of a vision transformer costs and brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import natsel
from natsel.common.files import write_json
from natsel.common.intervals import proportion_interval
from natsel.common.numbers import check_whole
from natsel.common.paired import mcnemar
from natsel.common.progress import Progress, silent
from natsel.common.timing import median, one_thread, take_turns
from natsel.models import ViT, build
from natsel.runs import environment
from natsel.runs.splits import load_splits
from natsel.runs.trained import trained_network
from natsel_bench.depth_vit import OPTIONS, RECIPE

BATCH = 100
BEFORE = {"blocks": (-1,)}
"""Before the first block: its attention, too, reads fewer."""
FIRST = {"blocks": (0,)}


@dataclass(frozen=True)
class TokenWay:
    """A method with its budget.

    Attributes:
        method: its name.
        share: of the tokens that goes.
        options: of :func:`natsel.live`.
        told: how it is called in the table.
    """

    method: str
    share: float
    options: Mapping[str, Any] = field(default_factory=dict)
    told: str = ""

    @property
    def name(self) -> str:
        """What a table calls it."""
        return f"{self.told or self.method}, {self.share:.0%}"

    def on(self, model: nn.Module) -> Any:
        """Let it thin the tokens of a model."""
        return natsel.live(model, self.method, natsel.Sparsity(self.share), **self.options)


MERGED = {"merge": True}
WAYS: tuple[TokenWay, ...] = (
    TokenWay("merge", 0.35, BEFORE, "pairs merged before block 0"),
    TokenWay("merge", 0.4, BEFORE, "pairs merged before block 0"),
    TokenWay("merge", 0.45, BEFORE, "pairs merged before block 0"),
    TokenWay("merge", 0.5, BEFORE, "pairs merged before block 0"),
    TokenWay("merge", 0.5, FIRST, "pairs merged in block 0"),
    TokenWay("key-norm", 0.5, FIRST | MERGED, "long keys merged in block 0"),
    TokenWay("random", 0.4, BEFORE | MERGED, "random merged before block 0"),
    TokenWay("random", 0.3, BEFORE, "random dropped before block 0"),
    TokenWay("random", 0.35, BEFORE, "random dropped before block 0"),
    TokenWay("random", 0.4, BEFORE, "random dropped before block 0"),
    TokenWay("diversity", 0.35, BEFORE, "max-min dropped before block 0"),
    TokenWay("received", 0.4, FIRST, "least attended dropped in block 0"),
)
EQUAL = 0.06
"""By how much two ways may differ in images a second to be compared at equal time."""

SIDES: Mapping[int, int] = {14: 196, 24: 576}
"""Patches on a side of a random network that is timed alone, and how many they are."""

LARGER = (
    TokenWay("merge", 0.5, {}, "pairs merged in every block"),
    TokenWay(
        "class-attention", 0.5, {"blocks": (1,)}, "least attended by class dropped in block 1"
    ),
    TokenWay("class-attention", 0.5, {"blocks": (1,), "fuse": True}, "the same, fused in block 1"),
)


def bench_tokens(
    out: str | Path,
    *,
    images: int = 5000,
    repeats: int = 15,
    sides: Sequence[int] = tuple(SIDES),
    ways: Sequence[TokenWay] = WAYS,
    network: nn.Module | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Thin the tokens of a small vision transformer: images a second, right test images.

    Args:
        out: folder for the trained network and ``tokens.json``; what is there is used again.
        images: of the CIFAR-10 test split.
        repeats: rounds in which each way reads one batch, there and back.
        sides: patches on a side of random networks that are timed alone.
        ways: what is compared.
        network: in the place of a trained one: then nothing is trained.
        progress: called as it goes.

    Returns:
        For each way: images a second and the ratio to the whole model, the share of right images
        and its difference to the whole model, with paired intervals over images.
    """
    check_whole("images", images, 2)
    check_whole("repeats", repeats, 2)
    folder, splits = Path(out), load_splits("cifar10")
    trained: dict[str, Any] = {}
    if network is None:
        from natsel.io import open_model
        from natsel.runs.trained import RECORD, read_object

        where = folder / "network"
        saved, _ = trained_network(
            where, splits, OPTIONS, RECIPE, seed=0, device="cpu", progress=progress
        )
        network, trained = open_model(saved).model, read_object(where / RECORD)
    network.eval()
    inputs, labels = (x[:images] for x in splits.test)
    with torch.no_grad(), one_thread():
        right = _right(network, inputs, labels, ways, progress)
        rows = _timed(network, inputs[:BATCH], ways, repeats)
        larger = [_larger(side, max(repeats // 3, 2), progress) for side in sides]
    whole = right.pop("whole")
    for way, row in zip(ways, rows[1:], strict=True):
        row["accuracy"] = proportion_interval(int(right[way.name].sum()), len(labels))._asdict()
        row["paired"] = mcnemar(right[way.name], whole)._asdict()
    rows[0]["accuracy"] = proportion_interval(int(whole.sum()), len(labels))._asdict()
    result = {
        "bench": "tokens",
        **environment.record(),
        "config": {"images": images, "repeats": repeats, "batch": BATCH, "epochs": RECIPE.epochs},
        "trained": trained,
        "rows": rows,
        "larger": larger,
        "against": _against(ways, right, rows),
    }
    write_json(folder / "tokens.json", result)
    return result


def _right(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    ways: Sequence[TokenWay],
    progress: Progress,
) -> dict[str, Tensor]:
    """Return which images each way gets right."""
    found = {}
    for number, way in enumerate((None, *ways)):
        progress("tokens: images", number, len(ways) + 1)
        with nullcontext() if way is None else way.on(model):
            logits = torch.cat([model(x) for x in torch.split(inputs, BATCH)])
        found["whole" if way is None else way.name] = logits.argmax(-1) == labels
    return found


def _timed(
    model: nn.Module, batch: Tensor, ways: Sequence[TokenWay], repeats: int
) -> list[dict[str, Any]]:
    """Return images a second by each way and their ratio to the whole model, in turn."""

    def step(way: TokenWay | None) -> Callable[[], object]:
        def run() -> object:
            with nullcontext() if way is None else way.on(model):
                return model(batch)

        return run

    times = take_turns([step(way) for way in (None, *ways)], repeats=repeats, warm_up=1)
    rows = []
    for column, way in enumerate((None, *ways)):
        seconds = median([float(t) for t in times[:, column]])
        rows.append(
            {
                "name": "whole" if way is None else way.name,
                "images_a_second": len(batch) / seconds.median,
                "faster": median([float(t) for t in times[:, 0] / times[:, column]])._asdict(),
            }
        )
    return rows


def _larger(side: int, repeats: int, progress: Progress) -> dict[str, Any]:
    """Time a random network with more tokens; what it says means nothing."""
    progress(f"tokens: {side * side} patches", 0, 1)
    options = {"dim": 192, "depth": 12, "heads": 3, "patch": 4}
    model = build("vit", in_shape=(3, 4 * side, 4 * side), num_classes=10, seed=0, **options)
    assert isinstance(model, ViT)
    shape = (2, 3, 4 * side, 4 * side)
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return {"tokens": side * side + 1, "rows": _timed(model.eval(), batch, LARGER, repeats)}


def _against(
    ways: Sequence[TokenWay], right: Mapping[str, Tensor], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Compare each way that merges with those that drop, at equal time."""
    faster = {row["name"]: row["faster"]["median"] for row in rows}
    merging = [w for w in ways if w.method == "merge" or w.options.get("merge")]
    return [
        {"one": a.name, "other": b.name, **mcnemar(right[a.name], right[b.name])._asdict()}
        for a in merging
        for b in ways
        if b not in merging and abs(faster[b.name] / faster[a.name] - 1) <= EQUAL
    ]
