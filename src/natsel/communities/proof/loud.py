"""Weights and inputs on which a wrong removal shows: structure is proven, not values.

A branch that ends in zeros hides what happens in it. An attention of tiny numbers is nearly the
same for all tokens, whatever its heads; tokens that are equal make it no difference at all. So a
trial is made on a copy whose tensors are of the size that keeps what passes through them near 1.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn

from natsel.communities.copies import copied
from natsel.communities.tensors import tensors_of

MAX_DOUBLE_ELEMENTS = 1 << 26
"""Larger copies are held in their own precision and read in float64, operator by operator."""

FEW_VALUES = 8
"""A tensor of so few different values is a mask or a table of flags: it stays."""

NEAR = 3.0
"""Weights within this factor of the size they should have stay as they are."""

Made = dict[tuple[int, int | None], tuple[Tensor, Tensor]]
"""Parameters of a model, each with what is held in float64 in its place, by who it is and how many
numbers each of its sums reads."""


def loud(
    model: nn.Module,
    owned: Collection[str],
    *,
    trial: int = 0,
    made: Made | None = None,
) -> nn.Module:
    """Return a copy of a model through which signals pass, in float64 unless it is large.

    A parameter of several axes is brought to a root mean square of about 1 over the root of how
    many numbers each of its sums reads, any other one to about 1; one that is constant gets seeded
    noise instead.

    Args:
        model: is not changed.
        owned: names of buffers that are treated like parameters; others stay.
        trial: with 0 the values of the model are kept but for their size; any other number makes
            other noise of all of them, with which other units are active.
        made: parameters that copies of other parts hold; it is added to. Copies share them.

    Returns:
        The copy.
    """
    generator = torch.Generator().manual_seed(trial)
    # Held in float64 it is read faster.
    double = sum(p.numel() for p in model.parameters()) <= MAX_DOUBLE_ELEMENTS
    made = {} if made is None else made
    fans = _fans(model)
    parameters = dict(model.named_parameters())
    instead: dict[int, Tensor] = {}
    later: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            if not tensor.is_floating_point():
                continue
            plain = double and type(tensor) is nn.Parameter
            key = id(tensor), fans.get(id(tensor))
            if plain and trial == 0 and key in made:
                instead[id(tensor)] = made[key][1]
                continue
            found = tensor.detach().double()
            if name in parameters or name in owned:
                found = _audible(found, fans.get(id(tensor)), generator, anew=trial > 0)
            if not plain:
                later[name] = found
                continue
            found = found if found.dtype != tensor.dtype else found.clone()
            instead[id(tensor)] = nn.Parameter(found, requires_grad=tensor.requires_grad)
            if trial == 0 and _keeps(tensor):
                made[key] = tensor, instead[id(tensor)]
        copy = copied(model, instead)
        tensors = tensors_of(copy)
        for name, found in later.items():
            if double:
                tensors[name].data = found
            else:
                tensors[name].copy_(found)
    return copy


def _keeps(x: Tensor) -> bool:
    """Tell whether a loud tensor has the values of this one but for their size: no noise."""
    return x.dim() > 1 and not is_constant(x) and bool(x.isfinite().all())


def with_noise(model: nn.Module, owned: Collection[str]) -> nn.Module:
    """Return a model that shares the parameters of another one, but for those that are constant.

    Args:
        model: is not changed.
        owned: names of buffers that are treated like parameters.

    Returns:
        A copy in the same precision: constant tensors are seeded noise in it.
    """
    generator = torch.Generator().manual_seed(0)
    constant = {
        name: _noise(tensor.shape, generator)
        for name, tensor in tensors_of(model).items()
        if (isinstance(tensor, nn.Parameter) or name in owned) and is_constant(tensor)
    }
    shared = {id(p): p for name, p in model.named_parameters() if name not in constant}
    copy = copied(model, shared)
    tensors = tensors_of(copy)
    with torch.no_grad():
        for name, noise in constant.items():
            tensors[name].copy_(noise)
    return copy


def loud_input(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return an input that differs from place to place, of a size near 1.

    Masks, flags, whole numbers and scalars stay as they are.
    """
    if not x.is_floating_point() or x.numel() < 2:
        return x
    if not is_constant(x):
        if not bool(x.isfinite().all()) or _has_few_values(x):
            return x
        size = float(x.double().square().mean().sqrt())
        x = x.double() / size if not 0.5 < size < 2 else x.double()
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return (x + noise.to(x.device)) / math.sqrt(2)
    if not math.isfinite(float(x.reshape(-1)[0])):
        return x
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return noise.to(x.device)


def is_constant(x: Tensor) -> bool:
    """Tell whether all elements of a floating-point tensor are the same."""
    if not x.is_floating_point() or x.numel() < 2:
        return False
    flat = x.detach().reshape(-1)
    return bool(flat[0] == flat[1]) and bool((flat == flat[0]).all())


def _has_few_values(x: Tensor) -> bool:
    return len(torch.unique(x.reshape(-1)[: 1 << 16])) <= FEW_VALUES < x.numel()


def _fans(model: nn.Module) -> dict[int, int]:
    """Return how many numbers each sum reads, of weights that do not have them behind axis 0."""
    found: dict[int, int] = {}
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            found[id(module.weight)] = 1
        for parameter in module._parameters.values():
            if parameter is not None and parameter.dim() == 3 and not _convolves(module):
                # One matrix for each expert.
                found[id(parameter)] = max(parameter.shape[1:])
    return found


def _convolves(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)


def _audible(x: Tensor, fan: int | None, generator: torch.Generator, *, anew: bool) -> Tensor:
    """Return a tensor of the size that it should have."""
    if x.numel() == 0:
        return x
    size = float(x.square().mean().sqrt())
    if x.numel() == 1:
        # A gate of a whole branch may start at 0.
        return x if size > 1 / NEAR and not anew else torch.full_like(x, 0.7)
    anew = anew or is_constant(x) or not math.isfinite(size)
    if x.dim() < 2:
        return _noise(x.shape, generator).to(x.device) if anew else _within(x, size, 1.0, 10.0)
    wanted = 1 / math.sqrt(fan if fan is not None else x.numel() / x.shape[0])
    if anew:
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return noise.to(x.device) * wanted
    return _within(x, size, wanted, NEAR)


def _within(x: Tensor, size: float, wanted: float, factor: float) -> Tensor:
    return x if wanted / factor < size < wanted * factor else x * (wanted / size)


def _noise(shape: torch.Size, generator: torch.Generator) -> Tensor:
    if len(shape) > 1:
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return noise / math.sqrt(shape.numel() / shape[0])
    # Positive: it may be a variance.
    return 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
