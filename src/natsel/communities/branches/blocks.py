"""Whole blocks as populations: all branches of one block stand or fall together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from natsel.communities.branches.branch import LEAST, Branch, Stand, mean_cost
from natsel.communities.community import Community, Refusal
from natsel.communities.cost import Cost

ALONE = "its block does something without it"


def as_blocks(
    communities: Sequence[Community], between: Mapping[str, float]
) -> tuple[list[Community], list[Refusal], dict[str, float]]:
    """Return communities of whole blocks, what is in no such block, and their costs between.

    Args:
        communities: of proven branches.
        between: multiply-accumulates without a weight, by the name of a branch.

    Returns:
        The communities, the branches whose block stays when they go, and multiply-accumulates
        without a weight by the name of a block.
    """
    found: list[Community] = []
    refused: list[Refusal] = []
    costs: dict[str, float] = {}
    for community in communities:
        inside: dict[str, list[Branch]] = defaultdict(list)
        for branch in community.branches:
            if branch.block:
                inside[branch.block].append(branch)
            else:
                refused.append(Refusal(branch.name, 1, ALONE))
        blocks = tuple(_block(path, held) for path, held in inside.items())
        costs |= {
            path: sum(between.get(b.name, 0.0) for b in held) for path, held in inside.items()
        }
        if len(blocks) >= LEAST:
            name = community.name.replace(":branches", ":blocks")
            size, cost = len(blocks), mean_cost(blocks)
            found.append(replace(community, name=name, size=size, cost=cost, branches=blocks))
        else:
            refused += [Refusal(b.name, 1, "it is the only block of its stream") for b in blocks]
    return found, refused, costs


def _block(path: str, branches: Sequence[Branch]) -> Branch:
    stands: dict[str, Stand] = {s.path: s for b in branches for s in b.stands}
    cost = Cost(sum(b.cost.parameters for b in branches), sum(b.cost.macs for b in branches))
    return Branch(
        name=path,
        holder=path,
        gates=tuple(dict.fromkeys(name for b in branches for name in b.gates)),
        scale=all(b.scale for b in branches),
        tensors=tuple(dict.fromkeys(name for b in branches for name in b.tensors)),
        stands=tuple(stands.values()),
        cost=cost,
        block=path,
        before=branches[0].before,
        after=branches[-1].after,
        axis=branches[0].axis,
    )
