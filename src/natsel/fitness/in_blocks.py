"""Which communities lie in one block of a chain each: they can be scored one block at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from natsel.blockwise import Chain, chains_of
from natsel.common.calls import Inputs, tensors_of_inputs, with_tensors
from natsel.communities import Communities


@dataclass(frozen=True, eq=False)
class Blocks:
    """A chain of which each community lies in one block.

    Attributes:
        chain: of the model.
        members: for each block, the communities in it, by their place among all.
    """

    chain: Chain
    members: tuple[tuple[int, ...], ...]


def blocks_of(communities: Communities, homes: Sequence[Collection[nn.Module]]) -> Blocks | None:
    """Return the chain that holds all communities, each in one block; None if there is none.

    The blocks of a chain are alike, and more than one layer each: between the layers of a network
    without blocks, what stands between would take more room than what is saved.

    Args:
        communities: of a model that runs on its example inputs.
        homes: for each community, the modules that may lie in no more than one block.
    """
    model = communities.model
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential))
    if not any(len(m) > 1 and _alike(list(m)) for m in lists):
        return None
    paths = {module: path for path, module in model.named_modules()}
    # What was changed since may not run on them any more; then data tell what is wrong.
    with suppress(RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        for chain in chains_of(model, examples(communities)):
            members: list[list[int]] = [[] for _ in chain.paths]
            for position, modules in enumerate(homes):
                found = {_number(paths[module], chain) for module in modules}
                if len(found) != 1 or (number := found.pop()) is None:
                    break
                members[number].append(position)
            else:
                if _alike([model.get_submodule(path) for path in chain.paths]):
                    return Blocks(chain, tuple(map(tuple, members)))
    return None


def examples(communities: Communities) -> Inputs:
    """Return the inputs that communities were found with, where their model is now."""
    inputs = communities.example_inputs
    parameter = next(communities.model.parameters(), torch.empty(0))
    return with_tensors(inputs, [x.to(parameter.device) for x in tensors_of_inputs(inputs)])


def _number(path: str, chain: Chain) -> int | None:
    """Return the block that holds a module."""
    inside = (n for n, p in enumerate(chain.paths) if path == p or path.startswith(f"{p}."))
    return next(inside, None)


def _alike(blocks: Sequence[nn.Module]) -> bool:
    return len({type(block) for block in blocks}) == 1 and any(blocks[0].children())
