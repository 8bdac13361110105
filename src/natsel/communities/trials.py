"""What a gate test runs on: weights and inputs on which a wrong removal shows, telling choices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, call, in_double, tensors_of_inputs, with_tensors
from natsel.communities.community import Community
from natsel.communities.copies import copied
from natsel.communities.tensors import tensors_of

MAX_DOUBLE_ELEMENTS = 1 << 23
"""Larger models are tested in their own precision: it takes half the time."""

SHARES = (0.25, 0.4, 0.5, 0.6, 0.75)


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
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    size = sum(p.numel() for p in model.parameters())
    as_it_is = kinds == {torch.float64} or size > MAX_DOUBLE_ELEMENTS
    # What gets no noise and keeps its precision stays as it is: a trial writes to no parameter.
    shared = {id(p): p for p in model.parameters() if as_it_is and not _is_constant(p)}
    double = copied(model, shared)
    owned = {s.tensor for c in communities for s in c.slices}
    parameters = dict(double.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors_of(double).items():
            if id(tensor) in shared or not (name in owned or name in parameters):
                continue
            if _is_constant(tensor):
                tensor.copy_(_noise(tensor, generator))
    tensors = [_informative(x, generator) for x in tensors_of_inputs(inputs)]
    inputs = with_tensors(inputs, tensors)
    if as_it_is:
        return double, inputs
    single = copied(double, {})
    exact = in_double(inputs)
    try:
        double.double()
        with torch.no_grad():
            call(double, exact)
    except Exception:  # noqa: BLE001 - a model with a fixed precision is tested in that one
        return single, inputs
    return double, exact


def _is_constant(x: Tensor) -> bool:
    if not x.is_floating_point() or x.numel() < 2:
        return False
    flat = x.reshape(-1)
    return bool(flat[0] == flat[1]) and bool((flat == flat[0]).all())


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

    In each, a community keeps one of several shares of its populations, unevenly, and not the
    same one in all, where it has several. Any two communities keep different shares at least
    once: a split into equal halves is not mistaken for one that follows the populations.

    Args:
        communities: to select in.

    Yields:
        One boolean tensor per community.
    """
    generator = torch.Generator().manual_seed(1)
    for counts in zip(*_courses(communities), strict=True):
        yield {
            c.name: _alive(c.size, num_alive, generator)
            for c, num_alive in zip(communities, counts, strict=True)
        }


def _courses(communities: Sequence[Community]) -> list[tuple[int, ...]]:
    """Return how many each community keeps, selection by selection; as few selections as do."""
    num_selections = 2
    while (found := _distinct_courses(communities, num_selections)) is None:
        num_selections += 1
    return found


def _distinct_courses(
    communities: Sequence[Community], num_selections: int
) -> list[tuple[int, ...]] | None:
    """Give each community a course of its own in which it loses something, or return None."""
    levels = [_levels(c.size, c.minimum) for c in communities]
    kinds = dict.fromkeys(zip((c.size for c in communities), levels, strict=True))
    open_courses = {kind: _several_first(kind[1], num_selections) for kind in kinds}
    taken: set[tuple[float, ...]] = set()
    found: dict[int, tuple[int, ...]] = {}
    # Those with the fewest levels choose first.
    for number in sorted(range(len(levels)), key=lambda i: len(levels[i])):
        size = communities[number].size
        for course in open_courses[size, levels[number]]:
            shares = tuple(count / size for count in course)
            if min(shares) < 1 and shares not in taken:
                taken.add(shares)
                found[number] = course
                break
        else:
            return None
    return [found[number] for number in range(len(levels))]


def _several_first(counts: tuple[int, ...], num_selections: int) -> Iterator[tuple[int, ...]]:
    """Yield every sequence of counts, those that are the same throughout at the end."""
    starts = [i * len(counts) // num_selections for i in range(num_selections)]
    rotated = [counts[start:] + counts[:start] for start in starts]
    yield from (course for course in itertools.product(*rotated) if len(set(course)) > 1)
    yield from ((count,) * num_selections for count in counts)


def _levels(size: int, minimum: int) -> tuple[int, ...]:
    """Return how many may be kept, from few to all but one; of two, one or both."""
    counts = {round(size * share) for share in SHARES} | {size - 1, max(2, size - 1)}
    return tuple(sorted(n for n in counts if max(minimum, 1) <= n <= size))


def _alive(size: int, num_alive: int, generator: torch.Generator) -> Tensor:
    """Lose the last of all but one; else the first and others, by chance."""
    alive = torch.zeros(size, dtype=torch.bool)
    if num_alive >= size - 1:
        alive[:num_alive] = True
    else:
        alive[1 + torch.randperm(size - 1, generator=generator)[:num_alive]] = True
    return alive
