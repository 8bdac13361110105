"""Live populations among the tokens of a vision transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from natsel.common.errors import choose, refuse, refuse_together
from natsel.live_populations.tokens.finding import find
from natsel.live_populations.tokens.handle import LiveTokens
from natsel.live_populations.tokens.pace import PACES, check_blocks, check_budget
from natsel.live_populations.tokens.registry import TokenMethod, TokenScorer, get
from natsel.live_populations.tokens.session import Session


def session_of(
    model: nn.Module,
    method: str | TokenMethod | TokenScorer,
    budget: object,
    *,
    blocks: Sequence[int] | None = None,
    pace: str = "even",
    merge: bool = False,
    fuse: bool = False,
    spread: bool | None = None,
    prefix: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any],
) -> Session:
    """Return what a method does in a model, checked; nothing is hung onto it yet."""
    bound, allowed = get(method).bound(options), check_budget(budget)
    choose("pace", pace, PACES)
    flags = {"merge": merge, "fuse": fuse, **({} if spread is None else {"spread": spread})}
    for name, value in flags.items():
        if not isinstance(value, bool):
            refuse(name, value, "True or False")
    if fuse and (merge or bound.most is not None):
        given = {"method": bound.name, "fuse": fuse, **({"merge": merge} if merge else {})}
        refuse_together(given, "one of merging and fusing")
    found = find(model, prefix)
    if bound.needs_class and not found.has_class:
        told = f"{type(model).__name__} without a class token"
        refuse("model", told, f"one that has it, which method {bound.name!r} reads")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return Session(
        method=bound,
        budget=allowed,
        found=found,
        blocks=check_blocks(blocks, len(found.blocks)),
        pace=pace,
        merge=merge,
        fuse=fuse,
        spread=(merge or bound.most is not None) if spread is None else spread,
        generator=torch.Generator(device).manual_seed(seed),
    )


def attach(model: nn.Module, method: Any, budget: object, **arguments: Any) -> LiveTokens:
    """Let the tokens of a vision transformer compete; see :func:`natsel.live`."""
    return LiveTokens(session_of(model, method, budget, **arguments))
