"""Live populations between the routers of a model and its experts."""

from __future__ import annotations

import torch
from torch import nn

from natsel.common.errors import choose, refuse
from natsel.common.numbers import check_whole
from natsel.live_populations.allowances import Allowance, Held
from natsel.live_populations.experts.handle import LiveExperts, refuse_twice
from natsel.live_populations.experts.registry import ExpertMethod
from natsel.live_populations.experts.routers import blocks_of
from natsel.live_populations.experts.session import Session, kept_of
from natsel.selection import Sparsity

SCOPES = ("token", "layer")


def attach(
    model: nn.Module,
    method: ExpertMethod,
    budget: Allowance,
    *,
    floor: float,
    scope: str | None,
    seed: int,
) -> LiveExperts:
    """Let the experts that each token chose compete; see :func:`natsel.live`."""
    scope = scope or "layer"
    choose("scope", scope, SCOPES)
    check_whole("floor", floor)
    if budget is None and method.extinct is None:
        refuse("budget", None, f"a budget: under {method.name!r} nobody leaves without one")
    if not isinstance(budget, Sparsity | Held | None):
        refuse("budget", budget, "natsel.Sparsity(share), natsel.Held(experts), or None")
    blocks = blocks_of(model)
    floor = int(floor)
    for index, block in blocks.items():
        chosen, where = block.num_chosen, f"layer {index} chooses {block.num_chosen} for a token"
        if floor > chosen:
            refuse("floor", floor, f"at most {chosen}: {where}")
        # Over many tokens a share is met to the last choice; of one it is rounded.
        each = 1 if scope == "token" else 1 << 20
        if budget is not None and kept_of(budget, each * chosen, each) < each * floor:
            allowed = f"one that leaves each token its floor of {floor}: {where}"
            refuse("budget", budget, allowed)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    generator = torch.Generator(device).manual_seed(seed)
    session = Session(method, budget, floor, scope, generator, blocks)
    refuse_twice(session, type(model).__name__)
    return LiveExperts(session, session.hooked(model))
