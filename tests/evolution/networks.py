"""Every architecture with its communities: discovered once, copied for each test."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor

import natsel
from natsel.common.calls import call, logits_of, tensors_of_inputs
from natsel.communities import Communities
from natsel_bench.zoo import ARCHITECTURES, build_architecture

RESIDUAL = ("hf-llama residual", "hf-gpt2 residual")
NAMES = tuple(ARCHITECTURES)


@functools.cache
def discovered(name):
    name, *residual = name.split()
    model, inputs = build_architecture(name)
    return natsel.discover(model, inputs, residual=bool(residual))


def network(name):
    """Return communities of a float64 copy, in evaluation mode, with inputs of its type."""
    found = discovered(name)
    model = copy.deepcopy(found.model).double().eval()
    if name == "hf-mixtral":
        model.config._experts_implementation = "eager"  # the fused one knows no float64
    inputs = tuple(x.double() if x.is_floating_point() else x for x in found.example_inputs)
    return Communities(model, inputs, tuple(found.values()), pricing=found.pricing)


def batch(communities, seed):
    """Return other inputs of the shapes of the example."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(x.shape, generator=generator, dtype=x.dtype)
        if x.is_floating_point()
        else x[:, torch.randperm(x.shape[1], generator=generator)]
        for x in tensors_of_inputs(communities.example_inputs)
    )


def logits(model, inputs) -> Tensor:
    return logits_of(call(model, inputs))


def loss_of(model, inputs):
    """A loss that no symmetry makes stationary: each output has a weight of its own."""
    out = logits(model, inputs)
    generator = torch.Generator().manual_seed(7)
    return (out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum()


def draw_survivors(communities, seed=0, share=0.5):
    """Keep a random half of each community, at least two experts (as many as are chosen)."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, community in communities.items():
        least = 2 if community.kind == "expert" else 1
        count = max(least, round(community.size * share))
        keep = torch.randperm(community.size, generator=generator)[:count]
        masks[name] = torch.zeros(community.size, dtype=torch.bool).index_fill_(0, keep, True)
    return natsel.Survivors(masks, communities)


def set_masses(evolution, masses):
    populations = evolution._populations
    for mass, start in zip(masses.values(), populations.starts, strict=True):
        populations.mass[start : start + len(mass)] = mass
    evolution._write_gates()
