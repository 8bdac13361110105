"""``natsel bench tokens``: what thinning the tokens of a vision transformer costs and brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import natsel
from natsel.common.errors import choose, refuse
from natsel.common.files import write_json
from natsel.common.intervals import proportion_interval
from natsel.common.json_data import read_object
from natsel.common.numbers import check_whole
from natsel.common.paired import mcnemar
from natsel.common.progress import Progress, silent
from natsel.common.timing import median, one_thread, take_turns
from natsel.models import build
from natsel.runs import environment
from natsel.runs.splits import Splits, load_splits
from natsel.runs.trained import RECORD, trained_network
from natsel.runs.training import Recipe
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
    TokenWay("merge", 0.4, BEFORE, "pairs merged before block 0"),
    TokenWay("merge", 0.45, BEFORE, "pairs merged before block 0"),
    TokenWay("merge", 0.5, BEFORE, "pairs merged before block 0"),
    TokenWay("key-norm", 0.5, FIRST | MERGED, "long keys merged in block 0"),
    TokenWay("random", 0.4, BEFORE | MERGED, "random merged before block 0"),
    TokenWay("random", 0.3, BEFORE, "random dropped before block 0"),
    TokenWay("random", 0.35, BEFORE, "random dropped before block 0"),
    TokenWay("random", 0.4, BEFORE, "random dropped before block 0"),
    TokenWay("diversity", 0.35, BEFORE, "max-min dropped before block 0"),
)
ATTENDED: tuple[TokenWay, ...] = (
    *(
        TokenWay("class-attention", share, FIRST, "least attended by class dropped in block 0")
        for share in (0.4, 0.5, 0.6)
    ),
    *(
        TokenWay("class-attention", share, FIRST | {"fuse": True}, "the same, fused in block 0")
        for share in (0.4, 0.5, 0.6)
    ),
    *(TokenWay("random", share, FIRST, "random dropped in block 0") for share in (0.4, 0.5, 0.6)),
)
"""What is compared besides where a class token attends."""
_HALF = TokenWay("merge", 0.5, BEFORE, "pairs merged before block 0")
BESIDE_CLASS = tuple(replace(way, share=0.49) if way == _HALF else way for way in WAYS)
"""A class token has no partner to merge with: of 65 tokens at most 32 pairs do."""
POOLS = ("mean", "cls")

EQUAL = 0.06
"""By how much two ways may differ in images a second to be compared at equal time."""

SIDES = (14, 24)
"""Patches on a side of a random network that is timed alone: 196 and 576."""

PARTS = ("cifar10", "random")

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
    parts: Sequence[str] = PARTS,
    images: int = 5000,
    repeats: int = 15,
    pool: str = "mean",
    epochs: int = RECIPE.epochs,
    ways: Sequence[TokenWay] | None = None,
    network: nn.Module | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Thin the tokens of vision transformers: images a second, right test images.

    Args:
        out: folder for the trained network and ``tokens.json``; the network is used again.
        parts: "cifar10" for a small trained network, "random" for larger random ones, which are
            timed alone.
        images: of the CIFAR-10 test split.
        repeats: rounds in which each way reads one batch, there and back.
        pool: what the trained network classifies: "mean" of all tokens, or a class token, "cls".
        epochs: that it is trained for.
        ways: what is compared on CIFAR-10; by default ``WAYS``, with a class token
            ``BESIDE_CLASS`` and ``ATTENDED``.
        network: in the place of a trained one: then nothing is trained.
        progress: called as it goes.

    Returns:
        For each way: images a second and the ratio to the whole model; of the trained network the
        share of right images and its difference to the whole model, paired over images.

    Raises:
        ValueError: if an argument is not allowed.
    """
    check_whole("images", images, 2)
    check_whole("repeats", repeats, 2)
    check_whole("epochs", epochs, 1)
    choose("pool", pool, POOLS)
    if ways is None:
        ways = WAYS if pool == "mean" else (*BESIDE_CLASS, *ATTENDED)
    if not parts:
        refuse("parts", parts, f"some of {', '.join(PARTS)}")
    for part in parts:
        choose("parts", part, PARTS)
    rows: list[dict[str, Any]] = []
    against: list[dict[str, Any]] = []
    trained: dict[str, Any] = {}
    with torch.no_grad(), one_thread():
        if "cifar10" in parts:
            splits = load_splits("cifar10")
            if network is None:
                recipe = replace(RECIPE, epochs=epochs)
                options = {**OPTIONS, "pool": pool}
                network, trained = _trained(
                    Path(out) / "network", splits, options, recipe, progress
                )
            inputs, labels = (x[:images] for x in splits.test)
            right = _right(network.eval(), inputs, labels, ways, progress)
            rows = _timed(network, inputs[:BATCH], ways, repeats)
            whole = right["whole"]
            for row in rows:
                own = right[row["name"]]
                row["accuracy"] = proportion_interval(int(own.sum()), len(labels))._asdict()
                if own is not whole:
                    row["paired"] = mcnemar(own, whole)._asdict()
            against = _against(ways, right, rows)
        if "random" in parts:
            for side in SIDES:
                rows += _larger(side, repeats, progress)
    result = {
        "bench": "tokens",
        **environment.record(),
        "config": {
            **{"parts": list(parts), "images": images, "repeats": repeats, "batch": BATCH},
            **{"pool": pool, "epochs": epochs},
        },
        "trained": trained,
        "rows": rows,
        "against": against,
    }
    write_json(Path(out) / "tokens.json", result)
    return result


def _trained(
    where: Path, splits: Splits, options: dict[str, Any], recipe: Recipe, progress: Progress
) -> tuple[nn.Module, dict[str, Any]]:
    """Train the network, or find it trained."""
    from natsel.io import open_model

    saved, _ = trained_network(
        where, splits, options, recipe, seed=0, device="cpu", progress=progress
    )
    return open_model(saved).model, read_object(where / RECORD)


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


def _larger(side: int, repeats: int, progress: Progress) -> list[dict[str, Any]]:
    """Time a random network with more tokens; what it says means nothing."""
    progress(f"tokens: {side * side} patches", 0, 1)
    options: dict[str, Any] = {"dim": 192, "depth": 12, "heads": 3, "patch": 4}
    shape = (3, 4 * side, 4 * side)
    model = build("vit", in_shape=shape, num_classes=10, seed=0, **options).eval()
    batch = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    rows = _timed(model, batch, LARGER, repeats)
    return [{**row, "name": f"random, {side**2 + 1} tokens: {row['name']}"} for row in rows]


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
