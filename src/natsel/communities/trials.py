"""What a gate test runs on: weights and inputs on which a wrong removal shows, telling choices."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, call, in_double, tensors_of_inputs, with_tensors
from natsel.communities.community import Community
from natsel.communities.tensors import tensors_of

MAX_DOUBLE_ELEMENTS = 1 << 23
"""Larger models are tested in their own precision: it takes half the time."""

SHARES = (0.25, 0.4, 0.6, 0.75)
MAX_LEVELS = 4


def stand_in(
    model: nn.Module, communities: Iterable[Community], inputs: Inputs
) -> tuple[nn.Module, Inputs]:
    """Return a copy of a model, and inputs, on which a removal that is not masking shows.

    Whether a structure may be removed does not depend on the values of the weights, but a branch
    that ends in zeros hides what happens in it, and a bias of zero what is added. So tensors whose
    elements are all the same get seeded noise. It runs in float64 where the model can.

    Args:
        model: the model, in evaluation mode; it is not changed.
        communities: their buffers get noise too.
        inputs: what the model runs on.

    Returns:
        The copy and its inputs.
    """
    generator = torch.Generator().manual_seed(0)
    double = copy.deepcopy(model)
    owned = {s.tensor for c in communities for s in c.slices}
    parameters = dict(double.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors_of(double).items():
            if (name in owned or name in parameters) and _is_constant(tensor):
                tensor.copy_(_noise(tensor, generator))
    tensors = [_informative(x, generator) for x in tensors_of_inputs(inputs)]
    inputs = with_tensors(inputs, tensors)
    kinds = {p.dtype for p in parameters.values() if p.is_floating_point()}
    size = sum(p.numel() for p in parameters.values())
    if kinds == {torch.float64} or size > MAX_DOUBLE_ELEMENTS:
        return double, inputs
    single = copy.deepcopy(double)
    exact = in_double(inputs)
    try:
        double.double()
        with torch.no_grad():
            call(double, exact)
    except Exception:  # noqa: BLE001 - a model with a fixed precision is tested in that one
        return single, inputs
    return double, exact


def _is_constant(x: Tensor) -> bool:
    return x.is_floating_point() and x.numel() > 1 and bool((x == x.reshape(-1)[0]).all())


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    if x.dim() > 1:
        scale = 1 / math.sqrt(x.numel() / x.shape[0])
        return torch.randn(x.shape, generator=generator, dtype=torch.float64) * scale
    # Positive: it may be a variance.
    return 0.5 + torch.rand(x.shape, generator=generator, dtype=torch.float64)


def _informative(x: Tensor, generator: torch.Generator) -> Tensor:
    if not _is_constant(x):
        return x
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return noise.to(device=x.device, dtype=x.dtype)


def choices(communities: Sequence[Community]) -> Iterator[dict[str, Tensor]]:
    """Yield selections of survivors that tell a removal that is masking from one that is not.

    In each, a community keeps one of several shares of its populations, unevenly. Which of them it
    is follows the digits of its number, so that any two communities keep different shares at least
    once: a split into equal halves is not mistaken for one that follows the populations.

    Args:
        communities: to select in.

    Yields:
        One boolean tensor per community.
    """
    generator = torch.Generator().manual_seed(1)
    levels = [_levels(c.size, c.minimum) for c in communities]
    base = max(2, min((len(found) for found in levels), default=2))
    num_rounds = 2
    while base**num_rounds <= len(communities):
        num_rounds += 1
    for power in range(num_rounds):
        chosen = {}
        for number, (community, counts) in enumerate(zip(communities, levels, strict=True), 1):
            digit = number // base**power % base
            num_alive = counts[digit * (len(counts) - 1) // (base - 1)]
            chosen[community.name] = _alive(community.size, num_alive, generator)
        yield chosen


def _levels(size: int, minimum: int) -> list[int]:
    """Return how many may be kept, from few to all but one; of two, one or both."""
    counts = {round(size * share) for share in SHARES} | {size - 1, max(2, size - 1)}
    return sorted(n for n in counts if minimum <= n <= size)[-MAX_LEVELS:]


def _alive(size: int, num_alive: int, generator: torch.Generator) -> Tensor:
    """Lose the last of all but one; else the first and others, by chance."""
    alive = torch.zeros(size, dtype=torch.bool)
    if num_alive >= size - 1:
        alive[:num_alive] = True
    else:
        alive[1 + torch.randperm(size - 1, generator=generator)[:num_alive]] = True
    return alive
