"""Where in a block the output of a consumer is simply added to a stream that goes on.

A layer of a transformer adds what it puts out to the hidden state that came in. What a later one
reads is the sum; so the sum is what should come out right, not only this consumer's part of it.
Which tensor that is, no name says: what is added to the output turns up there, unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from natsel.blockwise import Place
from natsel.common.hooks import as_rows, watching
from natsel.common.hooks import entering as what_enters
from natsel.common.padding import without_padding

EXACT = 1e-3
"""How far what turns up may be from what was added: rounding alone, in float32."""


@dataclass(frozen=True)
class Sum:
    """A tensor that the output of a consumer is a summand of.

    Attributes:
        reader: path in the model of the module that it enters; None for what leaves the block.
    """

    reader: str | None


def sums_of(place: Place, paths: Iterable[str]) -> dict[str, Sum]:
    """Return the last tensor of a block that each consumer's output is added to, if there is one.

    Something random is added to what the consumer puts out: the tensors that change by exactly
    that are those it is a summand of. The first batch runs once, and once more for each consumer.

    Args:
        place: a block with what enters it.
        paths: in the model, of modules inside the block.

    Returns:
        By path; a consumer whose output goes through something else first is left out.

    Example:
        >>> from natsel.blockwise import chains_of, walk
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.down = nn.Linear(2, 4), nn.Linear(4, 2)
        ...     def forward(self, x):
        ...         return x + self.down(self.up(x).relu())
        >>> model = nn.Sequential(Block(), Block())
        >>> x = torch.ones(3, 2)
        >>> place = next(walk(model, chains_of(model, (x,))[0], [(x,)]))
        >>> sums_of(place, ["0.up", "0.down"])
        {'0.down': Sum(reader=None)}
    """
    inner = {f"{place.path}.{n}": m for n, m in place.block.named_modules() if n}
    size = float(place.store.get(0).float().square().mean().sqrt())
    before, calls = _seen(place, inner)
    found = {}
    for path in paths:
        if calls.get(path) != 1:
            continue
        with _added_to(inner[path], size) as added:
            after, _ = _seen(place, inner)
        turned_up = [
            reader
            for reader, tensor in after.items()
            if added and reader in before and _changed_by(before[reader], tensor, added[0])
        ]
        if turned_up:
            found[path] = Sum(turned_up[-1])
    return found


@contextmanager
def _added_to(module: nn.Module, size: float) -> Iterator[list[Tensor]]:
    """Add something random to what a module puts out, of a size; what was added is given."""
    generator = torch.Generator().manual_seed(0)
    added: list[Tensor] = []

    def hook(_: nn.Module, __: Any, out: Any) -> Any:
        if not isinstance(out, Tensor):
            return out
        added.append((size * torch.randn(out.shape, generator=generator)).to(out))
        return out + added[-1]

    handle = module.register_forward_hook(hook)
    try:
        yield added
    finally:
        handle.remove()


def _changed_by(before: Tensor, after: Tensor, added: Tensor) -> bool:
    """Tell whether a tensor changed by what was added, but for the rounding of the sum."""
    if not before.shape == after.shape == added.shape:
        return False
    size = float(added.float().norm())
    rounding = 4 * torch.finfo(after.dtype).eps * float(after.float().norm())
    apart = float((after.float() - before.float() - added.float()).norm())
    return apart <= EXACT * size + rounding and rounding < 0.1 * size


def _seen(
    place: Place, inner: Mapping[str, nn.Module]
) -> tuple[dict[str | None, Tensor], dict[str, int]]:
    """Run a block on its first batch; return the hidden states in it in order, and the calls.

    These are what enters its modules and has the shape of what leaves the block, which is last.
    """
    seen: dict[str | None, Tensor] = {}
    calls: dict[str, int] = {}
    shape = place.store.get(0).shape

    def look(path: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls[path] = calls.get(path, 0) + 1
        entered = what_enters(args, named) if args or named else None
        if isinstance(entered, Tensor) and entered.shape == shape:
            seen[path] = entered.detach()

    with watching(inner, look):
        left = place.one(0)
    once: dict[str | None, Tensor] = {p: x for p, x in seen.items() if p and calls[p] == 1}
    return {**once, None: left.detach()}, calls


@contextmanager
def summing(place: Place, each: Sum, look: Callable[[Tensor], None]) -> Iterator[None]:
    """Show a sum, ``[rows, width]`` without padding, whenever the block runs while this lasts."""
    if each.reader is None:

        def leaving(module: nn.Module, _: Any, left: Any) -> None:
            look(_rows(module, left if isinstance(left, Tensor) else left[0]))

        handle = place.block.register_forward_hook(leaving)
        try:
            yield
        finally:
            handle.remove()
    else:
        module = place.model.get_submodule(each.reader)
        with watching({None: module}, lambda _, a, n: look(_rows(module, what_enters(a, n)))):
            yield


def _rows(module: nn.Module, x: Tensor) -> Tensor:
    return as_rows(without_padding(module, x.detach(), -1), -1)
