"""A model that begins in the middle of a chain, with a hidden state known from an earlier run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from natsel.blockwise.chain import Chain


@contextmanager
def begun(
    model: nn.Module, chain: Chain, number: int, hidden: Tensor, *, marked: bool = False
) -> Iterator[None]:
    """Let a model begin with what enters a block.

    Blocks before it do not run: each hands on what it is given. What comes before the chain runs.
    The rows of the batch may come in parts, one after the other.

    Args:
        model: whose modules are as they were afterwards.
        chain: of it, whose blocks return the hidden state alone.
        number: of the block.
        hidden: what enters it.
        marked: blocks before it return NaN instead, which shows whether anything else reads them.

    Example:
        >>> from natsel.blockwise import chains_of
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        >>> with torch.no_grad():
        ...     for layer in model:
        ...         _ = layer.weight.fill_(3.0)
        >>> x = torch.ones(1, 1)
        >>> with begun(model, chains_of(model, (x,))[0], 1, 5 * x), torch.no_grad():
        ...     model(x).item()
        15.0
    """
    start = 0

    def handed_on(*args: Any, **named: Any) -> Any:
        given = next(iter((*args, *named.values())))
        return torch.full_like(given, float("nan")) if marked else given

    def enters(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        nonlocal start
        values = (*args, *named.values())
        rows = hidden[start : start + len(values[0])]
        start += len(rows)
        return ((rows, *args[1:]), named) if args else ((), {**named, next(iter(named)): rows})

    skipped = [model.get_submodule(path) for path in chain.paths[:number]]
    block = model.get_submodule(chain.paths[number])
    handle = block.register_forward_pre_hook(enters, with_kwargs=True)
    forwards: list[tuple[nn.Module, Callable[..., Any] | None]] = []
    try:
        for module in skipped:
            forwards.append((module, vars(module).get("forward")))
            object.__setattr__(module, "forward", handed_on)
        yield
    finally:
        handle.remove()
        for module, own in forwards:
            if own is None:
                del vars(module)["forward"]
            else:
                object.__setattr__(module, "forward", own)
