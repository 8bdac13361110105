"""Networks as people write them: a seed gives a way, a way gives a network."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from . import convolutions, library, perceptrons  # noqa: F401 - they fill the tables
from .attention import PASSED, AttentionWay, draw_attention
from .layers import CONVOLUTIONS, LIBRARY, PERCEPTRONS, Layer
from .written import Attention

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


WIDE = 9


@dataclass(frozen=True)
class LayerWay:
    """A perceptron or a convolution: which, and how wide inside."""

    name: str = "plain"
    hidden: int = 8

    def __str__(self) -> str:
        return f"{self.name}({self.hidden})"


BlockWay = AttentionWay | LayerWay


@dataclass(frozen=True)
class NetworkWay:
    """How a network is written; the defaults are the plainest way.

    Attributes:
        blocks: its blocks, in order.
        images: whether convolutions stand first, on images.
        width: of the residual stream.
        residual: what is added to what a block returns.
        norm: before each block.
        entry: of a sequence, numbers or tokens.
        exit: what is read in the end.
        weights: how they are initialised.
        dtype: of the weights.
        loud: how large the example inputs are.
        big: millions of parameters more, in a wide layer or, beyond WIDE, in a table.
        length: of the sequences.
        shared: whether blocks of one way are one module.
    """

    blocks: tuple[BlockWay, ...] = ()
    images: bool = False
    width: int = 16
    residual: str = "plain"
    norm: str = "none"
    entry: str = "numbers"
    exit: str = "mean"
    weights: str = "default"
    dtype: str = "float32"
    loud: float = 1.0
    big: int = 0
    length: int = 5
    shared: bool = False

    def __str__(self) -> str:
        told = (
            f for f in fields(self) if f.name != "blocks" and getattr(self, f.name) != f.default
        )
        words = [f"{f.name}={getattr(self, f.name)}" for f in told]
        return " ".join([*words, *map(str, self.blocks)])


class Block(nn.Module):
    """A layer with its norm and its shortcut."""

    def __init__(self, way: NetworkWay, layer: nn.Module, passed: int | None) -> None:
        super().__init__()
        norms = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
        self.norm = norms[way.norm](way.width) if way.norm in norms else nn.Identity()
        self.layer = layer
        self.residual = way.residual
        if passed is not None:
            self.num = passed
        if way.residual == "scaled":
            self.gamma = nn.Parameter(torch.full((way.width,), 0.1))

    def forward(self, x: Tensor, passed: int | None = None) -> Tensor:
        image = x.dim() == 4
        y = self.norm(x.movedim(1, -1)).movedim(-1, 1) if image else self.norm(x)
        passed = self.num if hasattr(self, "num") else passed
        y = self.layer(y) if passed is None else self.layer(y, passed)
        if self.residual == "none":
            return y
        if self.residual == "dominant":
            return 100 * x + y
        if self.residual == "scaled":
            gamma = self.gamma.view(-1, 1, 1) if image else self.gamma
            return x + gamma * y
        return x + y


class Network(nn.Module):
    """An entry, blocks and an exit."""

    def __init__(self, way: NetworkWay) -> None:
        super().__init__()
        self.images, self.exit, self.entry = way.images, way.exit, way.entry
        width = way.width
        self.blocks = nn.ModuleList()
        if way.images:
            self.stem = nn.Conv2d(3, width, 3, padding=1)
        elif way.entry == "tokens":
            self.stem = nn.Embedding(11, width)
            self.position = nn.Parameter(torch.randn(1, way.length, width) * 0.02)
        else:
            self.stem = nn.Linear(6, width)
        once: dict[BlockWay, Block] = {}
        for block in way.blocks:
            made = _block(way, block)
            self.blocks.append(once.setdefault(block, made) if way.shared else made)
        self.rooted = [isinstance(b, AttentionWay) and b.store == "root" for b in way.blocks]
        if any(self.rooted):
            self.heads = way.blocks[self.rooted.index(True)].heads
        if way.big > WIDE:
            self.table = nn.Embedding(way.big * 1_000_000 // width, width)
        elif way.big:
            self.wide = Layer(PERCEPTRONS["plain"], width, way.big * 1_000_000 // (2 * width))
        if way.exit == "tied":
            self.head = nn.Linear(width, 11, bias=False)
            self.head.weight = self.stem.weight
        elif way.exit in ("flat", "channels last"):
            self.head = nn.Linear(width * (16 if way.images else way.length), 3)
        else:
            self.norm = nn.LayerNorm(width) if way.norm != "none" else nn.Identity()
            self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if self.entry == "tokens":
            y = y + self.position[:, : x.shape[1]]
        for block, rooted in zip(self.blocks, self.rooted, strict=True):
            if y.dim() == 4 and isinstance(block, SequenceBlock):
                y = y.flatten(2).transpose(1, 2)
            y = block(y, self.heads) if rooted else block(y)
        if hasattr(self, "wide"):
            y = y.flatten(2).transpose(1, 2) if y.dim() == 4 else y
            y = y + self.wide(y[:, :1])
        if hasattr(self, "table"):
            row = self.table.weight[0]
            y = y + (row.view(-1, 1, 1) if y.dim() == 4 else row)
        if self.exit == "channels last" and y.dim() == 4:
            y = y.permute(0, 2, 3, 1)
        if self.exit in ("flat", "channels last"):
            return self.head(y.flatten(1))
        if self.exit == "max":
            return self.head(self.norm(y.flatten(2).amax(2) if y.dim() == 4 else y.amax(1)))
        if self.exit == "tied":
            return self.head(y)
        y = y.mean((2, 3)) if y.dim() == 4 else y.mean(1) if self.exit == "mean" else y
        return self.head(self.norm(y))


class SequenceBlock(Block):
    """A block on tokens."""


def _block(way: NetworkWay, block: BlockWay) -> Block:
    if isinstance(block, LayerWay) and block.name in CONVOLUTIONS:
        return Block(way, Layer(CONVOLUTIONS[block.name], way.width, block.hidden), None)
    length = 16 if way.images else way.length
    if isinstance(block, LayerWay):
        layer = (PERCEPTRONS | LIBRARY)[block.name]
        return SequenceBlock(way, Layer(layer, way.width, block.hidden), None)
    passed = block.heads if block.store == PASSED[0] else None
    return SequenceBlock(way, Attention(block, way.width, length), passed)


def draw(seed: int) -> NetworkWay:
    """Return the way of a seed: one whose network runs."""
    rng = random.Random(seed)
    while not runs(way := _draw(rng)):
        pass
    return way


def runs(way: NetworkWay) -> bool:
    """Tell whether a way is one that a network can be written in."""
    try:
        with torch.no_grad():
            y = build(way)(inputs_of(way, 0))
            return bool(y.isfinite().all()) and y.float().std() > 0
    except (RuntimeError, ValueError, TypeError, AttributeError, ZeroDivisionError, AssertionError):
        return False


def _draw(rng: random.Random) -> NetworkWay:
    images = rng.random() < 0.45
    width = rng.choice((8, 12, 16, 16, 24, 30))
    blocks: list[BlockWay] = []
    if images:
        blocks += [_draw_layer(rng, CONVOLUTIONS) for _ in range(rng.choice((1, 2, 2, 3)))]
    if not images or rng.random() < 0.35:
        for _ in range(rng.choice((1, 2, 2, 3))):
            kind = rng.choices((AttentionWay, PERCEPTRONS, LIBRARY), (0.55, 0.37, 0.08))[0]
            attention = kind is AttentionWay
            blocks.append(draw_attention(rng, width) if attention else _draw_layer(rng, kind))
    if sum(isinstance(b, AttentionWay) for b in blocks) == 1 and rng.random() < 0.15:
        blocks += [b for b in blocks if isinstance(b, AttentionWay)]
    entry = "tokens" if not images and rng.random() < 0.3 else "numbers"
    exits = ("mean", "mean", "max", "flat", "channels last" if images else "all")
    half = rng.random() < 0.2
    return NetworkWay(
        blocks=tuple(blocks),
        images=images,
        width=width,
        residual=rng.choice(("plain", "plain", "plain", "none", "dominant", "scaled")),
        norm=rng.choice(("none", "layer", "rms")),
        entry=entry,
        exit="tied" if entry == "tokens" and rng.random() < 0.5 else rng.choice(exits),
        weights=rng.choice(("default", "default", "small", "tiny", "zero out", "large")),
        dtype=rng.choice(("bfloat16", "float16", "float64")) if half else "float32",
        loud=rng.choice((1.0, 1.0, 0.02, 100.0)),
        big=rng.choice((9, 35, 35)) if rng.random() < 0.06 else 0,
        length=rng.choice((4, 5, 7)),
        shared=rng.random() < 0.5,
    )


def _draw_layer(rng: random.Random, among: Mapping[str, object]) -> LayerWay:
    return LayerWay(rng.choice(list(among)), rng.choice((6, 8, 9, 12, 15)))


def build(way: NetworkWay) -> Network:
    """Return the network of a way, with weights as the way has them, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Network(way).eval()
        initialise(model, way.weights)
    return model.to(DTYPES[way.dtype])


@torch.no_grad()
def initialise(model: nn.Module, weights: str) -> None:
    """Fill the parameters as people do: with little, with much, with zeros at branch ends."""
    if weights == "default":
        return
    std = {"small": 0.02, "tiny": 1e-3, "zero out": 0.02, "large": 1.0}[weights]
    for name, p in model.named_parameters():
        last = name.rpartition(".")[0].rpartition(".")[2] in ("o", "o2", "down") or name.endswith(
            ".o"
        )
        if p.dim() > 1:
            p.normal_(0, std)
            if weights == "zero out" and last:
                p.zero_()
        elif weights != "large" and name.endswith("bias"):
            p.zero_()


def inputs_of(
    way: NetworkWay,
    seed: int,
    *,
    scale: float | None = None,
    batch: int = 2,
    length: int | None = None,
) -> Tensor:
    """Return inputs of a way; those of seed 0 are its examples."""
    generator = torch.Generator().manual_seed(seed)
    length = length or way.length
    if way.entry == "tokens":
        return torch.randint(11, (batch, length), generator=generator)
    shape = (batch, 3, 4, 4) if way.images else (batch, length, 6)
    x = torch.randn(shape, generator=generator) * (way.loud if scale is None else scale)
    return x.to(DTYPES[way.dtype])


def smaller(way: NetworkWay) -> Iterator[NetworkWay]:
    """Yield ways that say less: without a block, or with a default in place of one word."""
    for i, block in enumerate(way.blocks):
        rest = way.blocks[:i] + way.blocks[i + 1 :]
        if rest:
            yield replace(way, blocks=rest)
        for f in fields(block):
            if getattr(block, f.name) != f.default:
                plainer = replace(block, **{f.name: f.default})
                yield replace(way, blocks=(*way.blocks[:i], plainer, *way.blocks[i + 1 :]))
    for f in fields(way):
        if f.name != "blocks" and getattr(way, f.name) != f.default:
            yield replace(way, **{f.name: f.default})
