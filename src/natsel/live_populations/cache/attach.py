"""Live populations in the key/value cache of a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import choose, refuse, refuse_together
from natsel.common.extras import require
from natsel.live_populations.allowances import Allowance
from natsel.live_populations.floors import Floor
from natsel.live_populations.needs import check_needs
from natsel.live_populations.registry import Method

SCOPES = ("head", "layer", "model")


def attach(
    model: nn.Module,
    method: Method,
    budget: Allowance,
    *,
    sinks: int | None,
    window: int | None,
    floor: float,
    scope: str | None,
    normalize: str | None,
    heads: Mapping[int, Tensor] | None,
    merge: bool,
    decoding: bool,
    seed: int,
    for_proof: bool,
) -> Any:
    """Let the entries of a decoder's cache compete; see :func:`natsel.live`."""
    require("transformers", "transformers")
    from natsel.live_populations.cache import attending, finding, handle, session

    if heads is not None and (scope not in (None, "model") or normalize != "method"):
        both = {"heads": "needs", "scope": scope, "normalize": normalize}
        refuse_together(both, "heads alone: all heads share the budget, by their needs")
    if scope is None:
        scope = method.scope if heads is None else "model"
    choose("scope", scope, SCOPES)
    normalize = method.normalize if normalize == "method" else normalize
    if normalize not in ("mean", "rank", None):
        refuse("normalize", normalize, "'mean', 'rank', None, or 'method' for what it says")
    for name, value in (("merge", merge), ("decoding", decoding)):
        if not isinstance(value, bool):
            refuse(name, value, "True or False")
    if budget is None and method.extinct is None:
        refuse("budget", None, f"a budget: under {method.name!r} nobody leaves without one")
    if heads is not None and budget is None:
        refuse("budget", None, "a budget, which heads can share by their needs")
    if merge and for_proof:
        refuse("merge", merge, "False for a proof: who merges is in no mask")
    given = {"sinks": sinks, "window": window}
    least = Floor(
        sinks=method.sinks if sinks is None else sinks,
        window=method.window if window is None else window,
        floor=floor,
        strict=frozenset(name for name, value in given.items() if value is not None),
    )
    modules = finding.attention_layers(model)
    refused = finding.left_whole(model, modules)
    told = type(model).__name__
    if len(refused) == len(modules):
        reasons = ", ".join(sorted(set(refused.values())))
        refuse("model", told, f"a decoder with a layer that can lose entries; each is {reasons}")
    modules = {index: module for index, module in modules.items() if index not in refused}
    for module in modules.values():
        finding.check_implementation(module)
    if heads is not None:
        check_needs(heads, modules)
    handle.refuse_twice(modules, told)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    at_work = session.Session(
        method=method,
        budget=budget,
        floor=least,
        scope=scope,
        normalize=normalize,  # type: ignore[arg-type]
        heads=heads,
        merge=merge,
        decoding=decoding,
        generator=torch.Generator(device).manual_seed(seed),
        layers=tuple(modules),
        for_proof=for_proof,
    )
    if method.rereads:
        at_work.rereading.decoder = finding.decoder_of(model, modules)
    return handle.LiveCache(at_work, modules, attending.hooked(at_work, modules), refused)
