"""Small networks in which removing a unit goes wrong where structure is guessed, not followed.

Each holds its sizes as attributes where people do, and is one line or a few. Widths are even, so
that half of everything can go.
"""

# ruff: noqa: E501 - one network a line reads best

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.errors import choose

Forward = Callable[[Any, Tensor], Tensor]
Between = Callable[[Any, Tensor], Tensor]
L, C = nn.Linear, nn.Conv2d


@dataclass(frozen=True)
class Trap:
    """A network that catches a guess.

    Attributes:
        make: from nothing to the model.
        shape: of its input, with a batch axis.
        has_reference: whether a masked network can equal the smaller one at all: where units are
            averaged or normalised together, removing some is another function by nature.
        outputs: the layers that make the outputs.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    has_reference: bool = True
    outputs: tuple[str, ...] = ("out",)


def net(forward: Forward, **parts: Any) -> nn.Module:
    """Return a module of a class of its own, with these parts and this forward."""
    kind = type("Trap", (nn.Module,), {"forward": forward})
    module: nn.Module = kind()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def _mlp(between: Between, *, width: int = 8, read: int | None = None, **parts: Any) -> nn.Module:
    """Linear, something between, Linear."""
    read = width if read is None else read
    return net(lambda m, x: m.out(between(m, m.a(x))), a=L(5, width), out=L(read, 3), **parts)


def _conv(between: Between, *, width: int = 8, read: int | None = None, **parts: Any) -> nn.Module:
    """Convolution, something between, convolution."""
    read = width if read is None else read
    return net(lambda m, x: m.out(between(m, m.a(x))), a=C(3, width, 3), out=C(read, 2, 3), **parts)


def _shuffle(m: Any, y: Tensor) -> Tensor:
    b, c, h, w = y.shape
    return y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def _written(m: Any, y: Tensor) -> Tensor:
    y[:, :4] = 0
    return y


def _half(y: Tensor, which: int) -> Tensor:
    return y.chunk(2, 1)[which]


def _option_a(m: Any, x: Tensor) -> Tensor:
    y = F.relu(m.a(x))
    shortcut = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    out: Tensor = m.out(F.relu(m.b(y) + shortcut).mean((2, 3)))
    return out


def _wide_heads(m: Any, x: Tensor) -> Tensor:
    """Attention without a projection: its heads lie in the residual width."""
    y = m.a(x)
    q, k, v = (part(y).unflatten(-1, (m.heads, -1)).transpose(1, 2) for part in (m.q, m.k, m.v))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    out: Tensor = m.out(y + mixed)
    return out


def _heads_by_number(m: Any, x: Tensor) -> Tensor:
    b, t, _ = x.shape
    q, k, v = (part(x).view(b, t, m.heads, -1).transpose(1, 2) for part in (m.q, m.k, m.v))
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    out: Tensor = m.out(y.reshape(b, t, -1))
    return out


def _heads_by_size(m: Any, x: Tensor) -> Tensor:
    b, t, _ = x.shape
    q, k, v = (part(x).view(b, t, -1, m.head_dim).transpose(1, 2) for part in (m.q, m.k, m.v))
    y = F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2)
    out: Tensor = m.out(y.reshape(b, t, -1))
    return out


def _fused(m: Any, x: Tensor) -> Tensor:
    b, t, _ = x.shape
    qkv = m.qkv(x).reshape(b, t, 3, m.heads, m.head_dim).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]).transpose(1, 2)
    out: Tensor = m.out(y.reshape(b, t, m.heads * m.head_dim))
    return out


def _fused_chunks(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).chunk(3, -1)
    q, k, v = (part.unflatten(-1, (m.heads, -1)).transpose(1, 2) for part in (q, k, v))
    out: Tensor = m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return out


def _qkv() -> dict[str, nn.Module]:
    return {"q": L(5, 16), "k": L(5, 16), "v": L(5, 16), "out": L(16, 3)}


def _shared(m: Any, x: Tensor) -> Tensor:
    out: Tensor = m.out(torch.cat((m.h(m.a(x)), m.h(m.b(x))), 1))
    return out


def _outer(m: Any, x: Tensor) -> Tensor:
    out: Tensor = m.out((m.a(x)[:, :, None] * m.b(x)[:, None, :]).flatten(1))
    return out


def _squeeze(m: Any, y: Tensor) -> Tensor:
    return y * torch.sigmoid(m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))))


VECTOR, IMAGE, SEQUENCE = (2, 5), (2, 3, 8, 8), (2, 4, 5)

TRAPS: dict[str, Trap] = {
    "flip": Trap(lambda: _mlp(lambda m, y: y.flip(1)), VECTOR),
    "roll": Trap(lambda: _mlp(lambda m, y: y.roll(1, 1)), VECTOR),
    "channel shuffle": Trap(lambda: _conv(_shuffle), IMAGE),
    "nn.ChannelShuffle": Trap(lambda: _conv(lambda m, y: m.s(y), s=nn.ChannelShuffle(2)), IMAGE),
    "a fixed order": Trap(lambda: _mlp(lambda m, y: y[:, [0, 2, 1, 4, 3, 5, 7, 6]]), VECTOR),
    "division by size": Trap(lambda: _mlp(lambda m, y: y / y.size(1)), VECTOR),
    "cumsum": Trap(lambda: _mlp(lambda m, y: y.cumsum(1)), VECTOR),
    "sort": Trap(lambda: _mlp(lambda m, y: y.sort(1)[0]), VECTOR),
    "softmax": Trap(lambda: _mlp(lambda m, y: y.softmax(1)), VECTOR, has_reference=False),
    "mean": Trap(lambda: _mlp(lambda m, y: y - y.mean(1, keepdim=True)), VECTOR, has_reference=False),
    "LayerNorm": Trap(lambda: _mlp(lambda m, y: m.n(y), n=nn.LayerNorm(8)), VECTOR, has_reference=False),
    "GroupNorm of all": Trap(lambda: _conv(lambda m, y: m.n(y), n=nn.GroupNorm(1, 8)), IMAGE, has_reference=False),
    "GroupNorm of pairs": Trap(lambda: _conv(lambda m, y: m.n(y), n=nn.GroupNorm(4, 8)), IMAGE),
    "channels-last flatten": Trap(
        lambda: net(lambda m, x: m.out(m.a(x).permute(0, 2, 3, 1).flatten(1)), a=C(3, 8, 3), out=L(288, 3)), IMAGE),
    "flatten": Trap(lambda: net(lambda m, x: m.out(m.a(x).flatten(1)), a=C(3, 8, 3), out=L(288, 3)), IMAGE),
    "a view of literal size": Trap(lambda: _conv(lambda m, y: y.view(-1, 8, 6, 6)), IMAGE),
    "grouped convolution": Trap(lambda: _conv(lambda m, y: m.g(y), g=C(8, 8, 1, groups=2)), IMAGE),
    "depthwise multiplier": Trap(lambda: _conv(lambda m, y: m.g(y), read=16, g=C(8, 16, 3, 1, 1, groups=8)), IMAGE),
    "transposed convolution": Trap(lambda: _conv(lambda m, y: m.t(y), t=nn.ConvTranspose2d(8, 8, 2, 2)), IMAGE),
    "PixelShuffle": Trap(lambda: _conv(lambda m, y: F.pixel_shuffle(y, 2), width=16, read=4), IMAGE),
    "squeeze and excitation": Trap(lambda: _conv(_squeeze, down=C(8, 4, 1), up=C(4, 8, 1)), IMAGE),
    "option-A shortcut": Trap(
        lambda: net(_option_a, a=C(3, 8, 3, 1, 1), b=C(8, 12, 3, 2, 1), out=L(12, 3)), IMAGE),
    "heads in the residual width": Trap(
        lambda: net(_wide_heads, a=L(5, 16), q=L(16, 16), k=L(16, 16), v=L(16, 16), out=L(16, 3), heads=4), SEQUENCE),
    "heads by their number": Trap(
        lambda: net(_heads_by_number, heads=4, **_qkv()), SEQUENCE),
    "heads by their size": Trap(
        lambda: net(_heads_by_size, head_dim=4, **_qkv()), SEQUENCE),
    "fused queries, keys, values": Trap(
        lambda: net(_fused, qkv=L(5, 48), out=L(16, 3), heads=4, head_dim=4), SEQUENCE),
    "fused, in chunks": Trap(lambda: net(_fused_chunks, qkv=L(5, 48), out=L(16, 3), heads=4), SEQUENCE),
    "gated halves": Trap(
        lambda: _mlp(lambda m, y: _half(y, 0) * torch.sigmoid(_half(y, 1)), width=16, read=8), VECTOR),
    "uneven split": Trap(
        lambda: net(lambda m, x: m.out(m.a(x).split([6, 2], 1)[0]) + m.b(m.a(x).split([6, 2], 1)[1]),
                    a=L(5, 8), out=L(6, 3), b=L(2, 3)), VECTOR, outputs=("out", "b")),
    "tied autoencoder": Trap(
        lambda: net(lambda m, x: F.linear(torch.tanh(m.a(x)), m.a.weight.t()), a=L(5, 8)), VECTOR, outputs=()),
    "a shared module": Trap(lambda: net(_shared, a=L(5, 8), b=L(5, 8), h=L(8, 8), out=L(16, 3)), VECTOR),
    "a module called twice": Trap(lambda: _mlp(lambda m, y: m.h(torch.tanh(m.h(y))), h=L(8, 8)), VECTOR),
    "a weight used as data": Trap(
        lambda: net(lambda m, x: m.out(m.a(x)) + m.a.weight.sum(), a=L(5, 8), out=L(8, 3)), VECTOR),
    "concatenation with reuse": Trap(
        lambda: net(lambda m, x: m.out(torch.cat((m.a(x), m.b(x), m.a(x)), 1)), a=L(5, 8), b=L(5, 4), out=L(20, 3)), VECTOR),
    "outer product": Trap(lambda: net(_outer, a=L(5, 4), b=L(5, 4), out=L(16, 3)), VECTOR),
    "writing into a slice": Trap(lambda: _mlp(_written), VECTOR),
    "a classifier alone": Trap(lambda: net(lambda m, x: m.out(x.relu()), out=L(5, 4)), VECTOR),
}  # fmt: skip
"""Traps by name."""


def build_trap(name: str, *, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Build a trap, and inputs that it runs on; the global random state is not touched.

    Args:
        name: a key of ``TRAPS``.
        seed: of the weights and the inputs.

    Returns:
        The model, in evaluation mode, and a tuple of example inputs.

    Raises:
        ValueError: if there is no trap of this name.

    Example:
        >>> model, inputs = build_trap("flip")
        >>> model(*inputs).shape
        torch.Size([2, 3])
    """
    trap = TRAPS[choose("trap", name, TRAPS)]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return trap.make().eval(), (torch.randn(trap.shape),)
