"""Attention in the many ways in which people write it: one way is one value of each field."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from typing import Any

WAYS: dict[str, tuple[Any, ...]] = {
    "heads": (2, 3, 4, 4, 5, 6, 8),
    "dim": (2, 4, 4, 6, 8),
    "group": (1, 1, 1, 1, 2, 3),
    "store": (
        *("heads",) * 8,
        *("num_heads",) * 4,
        *("tuple", "list", "dict", "config", "config", "dataclass", "property", "computed"),
        *("class", "buffer", "float", "closure", "twice", "argument", "root", "private", "child"),
    ),
    "project": (
        *("separate",) * 6,
        *(
            "chunk",
            "chunk",
            "split inner",
            "split third",
            "slice third",
            "3hd",
            "3hd",
            "3hd permuted",
        ),
        *("h3d", "h3d chunk", "hd3", "q and kv", "weights", "per head", "convolution"),
    ),
    "split": (
        *(
            "-1",
            "-1",
            "-1",
            "tensor",
            "tensor",
            "tensor",
            "dim",
            "dim",
            "inner",
            "config",
            "weight",
        ),
        *("width", "width", "count from dim", "unflatten", "chunks", "pieces", "loop", "permuted"),
    ),
    "core": (
        "matmul",
        "matmul",
        "sdpa",
        "sdpa",
        "einsum",
        "bmm",
        "baddbmm",
        "bmm by repeat",
        "bthd",
    ),
    "scale": ("tensor", "tensor", "attribute", "attribute", "dim", "none", "width", "inner", "all"),
    "softmax": ("plain", "plain", "dtype", "float", "to", "island", "max", "exp"),
    "bias": (
        *("none",) * 7,
        "causal",
        "per head",
        "table",
        "embedding",
        "slopes",
        "mask by head",
        "kept",
    ),
    "query": (*("none",) * 7, "norm", "rms", "whole norm", "cosine", "temperature", "rotary"),
    "mix": (
        *("none",) * 14,
        "talking before",
        "talking after",
        "gate",
        "input gate",
        "mean",
        "norm",
    ),
    "merge": (
        *("-1", "-1", "flatten", "flatten", "inner", "product", "width", "permuted", "cat"),
        *("einsum", "tensor", "sum"),
    ),
    "trap": (*("none",) * 12, "divide", "decoy", "decoy", "size", "roll", "rank", "windows"),
    "out": ("linear", "linear", "linear", "no bias", "parameter", "two"),
    "qkv_bias": (True, True, False),
}


PASSED = ("argument", "root")
"""Where the number of heads comes from outside: from the block, or from the network."""


@dataclass(frozen=True)
class AttentionWay:
    """How an attention is written; the defaults are the plainest way."""

    heads: int = 4
    dim: int = 3
    group: int = 1
    store: str = "heads"
    project: str = "separate"
    split: str = "dim"
    core: str = "matmul"
    scale: str = "none"
    softmax: str = "plain"
    bias: str = "none"
    query: str = "none"
    mix: str = "none"
    merge: str = "-1"
    trap: str = "none"
    out: str = "linear"
    qkv_bias: bool = True

    def __str__(self) -> str:
        told = (f.name for f in fields(self) if getattr(self, f.name) != f.default)
        return f"attention({', '.join(f'{name}={getattr(self, name)}' for name in told)})"


HARD = {
    "store": ("heads", "num_heads", "twice", "property"),
    "split": (
        "-1",
        "tensor",
        "dim",
        "count from dim",
        "unflatten",
        "chunks",
        "pieces",
        "loop",
        "permuted",
        "config",
    ),
    "scale": ("tensor", "attribute", "dim", "none", "width"),
    "bias": ("none", "causal", "per head", "table", "embedding", "slopes"),
    "query": ("none", "norm", "rms", "temperature", "rotary", "cosine"),
    "mix": ("none", "gate", "input gate", "norm"),
    "merge": ("-1", "flatten", "product", "permuted", "cat", "einsum", "tensor"),
    "trap": ("none", "decoy", "rank", "windows"),
    "out": ("linear", "no bias", "parameter"),
    "project": tuple(dict.fromkeys(p for p in WAYS["project"] if p != "split inner")),
}
"""Words with which heads can be removed: an attribute follows, or nothing has to."""


def can_follow(way: AttentionWay) -> bool:
    """Tell whether heads of this way can go, with nothing but a head count that follows."""
    words = all(getattr(way, name) in allowed for name, allowed in HARD.items())
    num_kv = way.heads // way.group
    return words and num_kv > 1


def draw_attention(rng: random.Random, width: int) -> AttentionWay:
    """Draw a way; often the heads together are as wide as the residual stream."""
    usual = rng.choice((0.0, 0.4, 0.7))
    told = {n: rng.choice(v) for n, v in WAYS.items() if rng.random() >= usual}
    way = AttentionWay(**told)
    fitting = [h for h in (2, 3, 4, 5, 6, 8) if width % h == 0]
    if fitting and rng.random() < 0.7:
        heads = rng.choice(fitting)
        way = replace(way, heads=heads, dim=width // heads)
    if way.group > 1:
        way = replace(way, project=rng.choice(("separate", "q and kv")))
    return way
