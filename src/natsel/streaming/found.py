"""The communities of a model that is not in memory: found by labels, proven on one real block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from natsel.blockwise import Chain, Feed
from natsel.blockwise.alone import Alone, whole
from natsel.blockwise.residency import Residency
from natsel.common.calls import Inputs
from natsel.communities import Communities, Community, Refusal, discover
from natsel.communities.tensors import all_tensors

APART = "it reaches over the borders of blocks, which are cut one by one"
OTHERWISE = "a block alone does not show it as the whole model does"


@dataclass(frozen=True, eq=False)
class Found:
    """What can be removed, block by block.

    Attributes:
        communities: of the whole model; their names, sizes and prices.
        local: for each block, the same as a block alone has them, by the name in the whole model.
        pricing: of a block alone.
    """

    communities: Communities
    local: tuple[dict[str, Community], ...]
    pricing: tuple[Any, ...]

    def of(self, number: int, names: Mapping[str, Any]) -> dict[str, Community]:
        """Return the communities of a block that are named, by their name in the whole model."""
        return {n: c for n, c in self.local[number].items() if n in names}

    def alone(self, number: int, model: nn.Module, hidden: Tensor) -> Communities:
        """Return the communities of a block in the model that it alone makes."""
        inside = tuple(self.local[number].values())
        return Communities(model, (hidden,), inside, pricing=self.pricing[number])


def find(
    shapes: nn.Module,
    inputs: Inputs,
    chain: Chain,
    residency: Residency,
    feed: Feed,
    hidden: Tensor,
) -> Found:
    """Find the communities of a model, by labels, and prove them on real values, by blocks.

    Labels need no values: they are propagated through the whole model on the meta device. Blocks
    of the same classes, shapes and settings are of one kind; of each kind one is read, and what
    removing does to it is compared with what masking does, as in any discovery. A community counts
    if both agree on every place that it owns. Whoever cuts a block still has to verify that one.

    Args:
        shapes: the model on the meta device.
        inputs: of it, with values.
        chain: its blocks.
        residency: of the same model, to read blocks.
        feed: what a batch of one sample gives to the blocks.
        hidden: what it lets enter the first one.
    """
    meta: Any = {n: x.to("meta") for n, x in inputs.items()} if isinstance(inputs, dict) else None
    assert meta is not None
    labelled = discover(shapes, meta, proof=False)
    kinds: dict[str, Communities] = {}
    kept: list[Community] = []
    local: list[dict[str, Community]] = []
    pricing: list[Any] = []
    refused = list(labelled.refused)
    owners = {c.name: _owner(c, chain) for c in labelled.values()}
    refused += [_left(c, APART) for c in labelled.values() if owners[c.name] is None]
    for number, path in enumerate(chain.paths):
        kind = _kind(residency.model.get_submodule(path))
        if kind not in kinds:
            with residency.resident(path) as block:
                kinds[kind] = discover(Alone(block, feed, number), (hidden,))
            refused += [
                replace(r, name=whole(r.name, path))
                for r in kinds[kind].refused
                if whole(r.name, path) in owners
            ]
        alone = kinds[kind]
        here: dict[str, Community] = {}
        for community in labelled.values():
            if owners[community.name] != number:
                continue
            twin = next((c for c in alone.values() if whole(c.name, path) == community.name), None)
            if twin is None or not _same(twin, community, path):
                if twin is not None or community.name not in {r.name for r in refused}:
                    refused.append(_left(community, OTHERWISE))
                continue
            here[community.name] = twin
            bound = tuple(replace(b, module=whole(b.module, path)) for b in twin.rebindings)
            kept.append(replace(community, rebindings=bound))
        local.append(here)
        pricing.append(alone.pricing)
    communities = Communities(
        residency.model,
        inputs,
        tuple(kept),
        tuple(refused),
        labelled.barriers,
        labelled.macs,
        pricing=labelled.pricing,
    )
    return Found(communities, tuple(local), tuple(pricing))


def _owner(community: Community, chain: Chain) -> int | None:
    """Return the block that holds all that a community owns."""
    for number, path in enumerate(chain.paths):
        if all(part.tensor.startswith(f"{path}.") for part in community.slices):
            return number
    return None


def _same(alone: Community, theirs: Community, path: str) -> bool:
    """Say whether a block alone shows a community with the very places of the whole model."""

    mine = {(whole(s.tensor, path), s.axis, s.role): s.index for s in alone.slices}
    other = {(s.tensor, s.axis, s.role): s.index for s in theirs.slices}
    return (
        (alone.size, alone.kind, alone.minimum) == (theirs.size, theirs.kind, theirs.minimum)
        and mine.keys() == other.keys()
        and all(torch.equal(mine[key], other[key]) for key in mine)
    )


def _left(community: Community, reason: str) -> Refusal:
    return Refusal(community.name, community.size, reason)


def _kind(block: nn.Module) -> str:
    """Return all that can be told of a block without its values, but for its place."""
    plain = (int, float, bool, str, tuple, type(None))
    told = [
        f"{name}:{type(module).__qualname__}:{attribute}={value!r}"
        for name, module in block.named_modules()
        for attribute, value in sorted(vars(module).items())
        if isinstance(value, plain) and attribute not in ("layer_idx", "training")
    ]
    told += [f"{n}:{tuple(t.shape)}:{t.dtype}" for n, t in all_tensors(block).items()]
    classes = [f"{n}:{type(m).__qualname__}" for n, m in block.named_modules()]
    return "\n".join([*classes, *told])
