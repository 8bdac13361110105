"""What each community would change in a masked network, to first order and all at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from natsel.communities.community import Community
from natsel.communities.surgery.surgery import zero
from natsel.communities.tensors import tensors_of

STEP = 1e-6
"""How far weights go, of what they lack, to see whether outputs move as their gradients say."""

SURE = 4
"""How much larger a gradient is than what all of them together are wrong by, to be believed."""

HALF = (torch.float16, torch.bfloat16)


class Run(Protocol):
    """Runs a network and returns its outputs, with gradients or without."""

    def __call__(self, model: nn.Module, *, gradients: bool = False) -> Sequence[Tensor]:
        """Run it."""


def is_masked_by_zeros(community: Community) -> bool:
    """Tell whether zeros in what reads a community mask it.

    Where what makes it is zero instead, no gradient passes the activation behind that.
    """
    routes = any(part.role in ("route", "preference") for part in community.slices)
    return community.exact and not (routes or community.stilled or community.branches)


def influences(
    masked: nn.Module,
    dense: nn.Module,
    communities: Sequence[Community],
    survivors: Mapping[str, Tensor],
    run: Run,
) -> dict[str, dict[str, float]]:
    """Return how far outputs move as the populations of one community begin to be heard again.

    It is told of each tensor that reads them: where one of them leads to what is not active, a
    removal that is wrong there does not show.

    Of outputs ``y`` of ``n`` numbers it is ``|<r, dy/da>| / sqrt(n)``, where ``a`` scales what the
    masked network lacks of a community's weights in one tensor, and ``r`` is seeded noise: about
    the root mean square of what the outputs change by. It is 0 behind units that are not active,
    and wherever nothing that reads the community reaches an output.

    A gradient is what code says it is: one that passes straight through a rounding or a threshold
    is there though no output moves. So all of them take one small step together, each of a length
    of its own, and none is believed that is not larger than what their sum is wrong by.

    Args:
        masked: what :func:`natsel.communities.surgery.surgery.silence` gave; it is changed.
        dense: the network that it was made of.
        communities: those that are masked, by zeros in weights.
        survivors: one boolean tensor ``[size]`` per community.
        run: runs a network.

    Returns:
        By the names of communities, by those of the tensors that read them; 0 of what is not
        believed, and nothing where the outputs have no gradients.
    """
    theirs, before = tensors_of(masked), tensors_of(dense)
    readers: dict[str, list[Community]] = defaultdict(list)
    for community in communities:
        for name in dict.fromkeys(part.tensor for part in community.silenced):
            readers[name].append(community)
    weights = [theirs[name].requires_grad_() for name in readers]
    outputs = run(masked, gradients=True)
    heard = [i for i, x in enumerate(outputs) if x.requires_grad]
    if not heard:
        return {}
    noise = torch.Generator().manual_seed(0)
    along = [_direction(outputs[i], noise) for i in heard]
    found = torch.autograd.grad([outputs[i] for i in heard], weights, along, allow_unused=True)
    start = _projected([outputs[i] for i in heard], along)
    moved: dict[tuple[str, str], float] = {}
    steps: dict[tuple[str, str], float] = {}
    with torch.no_grad():
        for (name, own), gradient in zip(readers.items(), found, strict=True):
            weight = theirs[name]
            step = torch.zeros_like(weight, dtype=torch.float64)
            for community in own:
                heard_again = {name: before[name].clone()}
                zero(heard_again, [c for c in own if c is not community], survivors, only={name})
                lacking = (heard_again[name] - weight).double()
                key = community.name, name
                steps[key] = _length(noise)
                step.add_(lacking, alpha=STEP * steps[key])
                moved[key] = 0.0 if gradient is None else float((gradient * lacking).sum())
            if weight.dtype in HALF:
                # So small a step would get lost in it.
                weight.data = weight.double().add_(step)
            else:
                weight.add_(step)
    outputs = run(masked)
    did = (_projected([outputs[i] for i in heard], along) - start) / STEP
    wrong = abs(did - sum(steps[key] * value for key, value in moved.items()))
    told: dict[str, dict[str, float]] = {c.name: {} for c in communities}
    for (community_name, name), value in moved.items():
        # What is infinite or NaN is not believed either.
        told[community_name][name] = abs(value) if abs(value) > SURE * wrong else 0.0
    return told


def _direction(output: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    return (noise / math.sqrt(output.numel())).to(output.device)


def _length(generator: torch.Generator) -> float:
    """Return a length between 1/2 and 3/2, forwards or backwards: no two cancel by their sizes."""
    size, sign = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return float((0.5 + size) * (1 if sign < 0.5 else -1))


def _projected(outputs: Sequence[Tensor], along: Sequence[Tensor]) -> float:
    pairs = zip(outputs, along, strict=True)
    return math.fsum(float((x.detach() * r.conj()).real.sum()) for x, r in pairs)
