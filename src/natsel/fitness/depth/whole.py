r"""What a mass in front of a whole branch does to the loss, from weights and gradients.

The mass multiplies the gates of a branch, whole tensors. What the branch adds is as many times as
large, so that $m\,\partial L/\partial m = \sum_g \langle W_g, \partial L/\partial W_g\rangle$.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.sharding.local import Shard, is_spread, partial_dot
from natsel.common.sharding.reducing import rank_in, summed
from natsel.communities.community import Community
from natsel.communities.gates.gating import check_scales
from natsel.communities.tensors import owner
from natsel.fitness.registry import Part

Gradient = Callable[[nn.Parameter], Tensor | None]
Weight = Callable[[nn.Parameter], Tensor]


class WholeBranches:
    """The gates of the branches of one stream.

    Args:
        community: of branches.
        model: that they are of.

    Raises:
        ValueError: if a factor on the gates of a branch is none on what it adds.
    """

    watched = False
    """What enters them tells nothing of a branch as a whole."""

    def __init__(self, community: Community, model: nn.Module) -> None:
        check_scales(community)
        self._name = community.name
        self._owners = [[(*owner(model, g), g) for g in b.gates] for b in community.branches]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are there now."""
        return [_found(*place) for places in self._owners for place in places]

    def contract(self, given: Gradient, group: Any = None, weight: Weight | None = None) -> Tensor:
        """Return m dL/dm of each branch: ``[size]``.

        Args:
            given: from a parameter to its gradient.
            group: the processes over which it is added up; this one gives what it contributes.
            weight: from a parameter to all of it, if gradients are whole and weights are spread.
        """
        sums = []
        for places in self._owners:
            found = []
            for place in places:
                parameter = _found(*place)
                gradient = given(parameter)
                if gradient is None:
                    raise ValueError(
                        f"{place[2]} requires no gradient: a frozen gate tells nothing of its "
                        "branch; let it require one, or score by loss or cosine"
                    )
                share = partial_dot(weight(parameter) if weight else parameter, gradient)
                # What every process has all of counts once.
                counts = is_spread(parameter) or not rank_in(group)
                found.append(share if counts else torch.zeros_like(share))
            sums.append(torch.stack(found).sum())
        return torch.stack(sums)

    def part(
        self,
        gradient: Gradient,
        statistics: Mapping[Any, Tensor] | None,
        by_sums: bool = False,
        weight: Weight | None = None,
    ) -> Part:
        """Return one weight of 1 for each branch, with m dL/dm as its gradient."""
        shards = (Shard.of(parameter) for parameter in self.parameters if weight is None)
        group = next((shard.group for shard in shards if shard is not None), None)
        found = summed(self.contract(gradient, group, weight), group)
        index = torch.arange(len(found), device=found.device)[:, None]
        return Part(torch.ones_like(found), found, 0, index, True, None, self._name)


def _found(module: nn.Module, name: str, path: str) -> nn.Parameter:
    found = module._parameters.get(name)
    if found is None:
        raise ValueError(
            f"{path} is gone from the model (made another parameter, or spread over processes): "
            "find the communities again, after that"
        )
    return found
