"""What each community would change in a masked network, to first order and all at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from natsel.communities.community import Community
from natsel.communities.surgery.surgery import zero
from natsel.communities.tensors import tensors_of


def influences(
    masked: nn.Module,
    dense: nn.Module,
    communities: Sequence[Community],
    survivors: Mapping[str, Tensor],
    run: Callable[[nn.Module], Sequence[Tensor]],
) -> dict[str, float]:
    """Return how far outputs move as the populations of one community begin to be heard again.

    Of outputs ``y`` of ``n`` numbers it is ``|<r, dy/da>| / sqrt(n)``, where ``a`` scales what the
    masked network lacks of a community's weights, and ``r`` is seeded noise: about the root mean
    square of what the outputs change by. It is 0 behind units that are not active, and wherever
    nothing that reads the community reaches an output.

    Args:
        masked: what :func:`natsel.communities.surgery.surgery.silence` gave.
        dense: the network that it was made of.
        communities: those that are masked, by zeros in weights.
        survivors: one boolean tensor ``[size]`` per community.
        run: runs a network and returns its outputs, with gradients.

    Returns:
        One number per community, by name; none where the outputs have no gradients.
    """
    theirs, before = tensors_of(masked), tensors_of(dense)
    readers: dict[str, list[Community]] = defaultdict(list)
    for community in communities:
        for name in dict.fromkeys(part.tensor for part in community.silenced):
            readers[name].append(community)
    weights = [theirs[name].requires_grad_() for name in readers]
    outputs = [x for x in run(masked) if x.requires_grad]
    if not outputs:
        return {}
    noise = torch.Generator().manual_seed(0)
    along = [
        (torch.randn(x.shape, generator=noise, dtype=x.dtype) / math.sqrt(x.numel())).to(x.device)
        for x in outputs
    ]
    found = torch.autograd.grad(outputs, weights, along, allow_unused=True)
    moved = dict.fromkeys((c.name for c in communities), 0.0)
    with torch.no_grad():
        for (name, own), gradient in zip(readers.items(), found, strict=True):
            if gradient is None:
                continue
            for community in own:
                heard = {name: before[name].clone()}
                zero(heard, [c for c in own if c is not community], survivors, only={name})
                moved[community.name] += float((gradient * (heard[name] - theirs[name])).sum())
    return {name: abs(value) for name, value in moved.items()}
