"""Extraction from a model that is spread over processes: one whole parameter at a time."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.common.sharding.local import local, spread_as, whole
from natsel.common.sharding.reducing import device_of, gathered
from natsel.common.sharding.together import is_first, together
from natsel.common.sharding.wrapping import Spread, settle, shard_like
from natsel.communities import Communities
from natsel.communities.gates.gates import acting
from natsel.communities.gathering import gathered_copy, shapes_alone
from natsel.communities.surgery.surgery import cut, kept_indices, remove, shortened_by
from natsel.communities.tensors import tensors_of
from natsel.extraction.optimizers import follow
from natsel.extraction.plan import Plan, attach_plan
from natsel.extraction.verification import VerificationError
from natsel.extraction.verify import check_model, confirm
from natsel.selection import Survivors


def extract_spread(
    model: nn.Module,
    survivors: Survivors,
    communities: Communities,
    spread: Spread,
    *,
    optimizer: torch.optim.Optimizer | None,
    verify: bool,
) -> nn.Module:
    """Return the small model, spread as the dense one is.

    Every process holds its shares of both and, in turn, each parameter as a whole; for the proof
    the first process holds both models.

    Args:
        model: under ``fully_shard``, gated or not; it is not changed.
        survivors: the same in every process.
        communities: that they belong to.
        spread: how the model is spread.
        optimizer: if given, it goes on with the small model.
        verify: prove, in the first process, that the small model equals the masked one.

    Raises:
        ValueError: if processes hold other survivors.
        VerificationError: in every process, if the small model differs from the masked one.
    """
    check_model(model, communities)
    _check_same(survivors, spread)
    settle(model)
    # In another folder of modules the same parameters; what is cut has no data yet.
    small = remove(shapes_alone(model), communities.values(), survivors)
    names = _names(model, communities, survivors)
    shard_like(small, model, {after: name for name, after in names.items()})
    _make_room(small, local(next(model.parameters())).device)
    _fill(small, model, names, kept_indices(communities.values(), survivors, tensors_of(model)))
    if verify:
        _prove(model, small, survivors, communities, spread)
    attach_plan(small, Plan.describe(model, small, survivors, communities))
    if optimizer is not None:
        follow(optimizer, model, small, communities, survivors)
    return small


def _check_same(survivors: Survivors, spread: Spread) -> None:
    """Refuse survivors that are not those of the other processes."""
    told = b"".join(
        name.encode() + mask.cpu().numpy().tobytes() for name, mask in survivors.items()
    )
    for group in (spread.group, spread.replicas):
        mine = torch.tensor([zlib.crc32(told)], device=device_of(group))
        found = [int(other) for other in gathered(mine, group)]
        other = next((rank for rank, digest in enumerate(found) if digest != found[0]), None)
        if other is not None:
            refuse(
                "survivors",
                f"others in process {other} than in process 0",
                "the same in every process: select from the same scores, which score(..., group=) "
                "adds up over the processes",
            )


def _names(model: nn.Module, communities: Communities, survivors: Survivors) -> dict[str, str]:
    """Return, by its name, the name that a parameter has in the small model, if it has one."""
    shortening = shortened_by(model, communities.values(), survivors)
    named = ((name, shortening.renamed(name)) for name, _ in model.named_parameters())
    return {name: after for name, after in named if after is not None}


def _make_room(small: nn.Module, device: torch.device) -> None:
    """Give the parameters memory; buffers, which have their values, keep them."""
    buffers = [(m, name, b) for m in small.modules() for name, b in m._buffers.items()]
    small.to_empty(device=device)
    for module, name, buffer in buffers:
        module._buffers[name] = buffer


@torch.no_grad()
def _fill(
    small: nn.Module,
    model: nn.Module,
    names: Mapping[str, str],
    kept: Mapping[str, Mapping[int, Tensor]],
) -> None:
    product, mine = acting(model), dict(small.named_parameters())
    for name, parameter in model.named_parameters():
        if name not in names:
            continue
        value = product(parameter, whole(parameter).detach())
        target = mine[names[name]]
        local(target).copy_(local(spread_as(cut(value, kept.get(name, {})), target)))


def _prove(
    model: nn.Module, small: nn.Module, survivors: Survivors, known: Communities, spread: Spread
) -> None:
    """Compare what the processes hold together, in the first one; all hear what came out."""
    first = is_first(spread)
    base, mine = (gathered_copy(each, keep=first) for each in (model, small))
    with together(spread, "prove that the small model equals the masked one", VerificationError):
        if first:
            confirm(base, mine, survivors, known)
