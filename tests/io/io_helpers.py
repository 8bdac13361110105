"""What the tests of this folder share."""

from __future__ import annotations

import torch

import natsel


def survivors_of(communities, cut, seed=1):
    """Keep a random half of every community, or shares that differ from one to the next."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for i, (name, community) in enumerate(communities.items()):
        share = 0.5 if cut == "even" or i % 4 >= 2 else 0.75
        mask = torch.zeros(community.size, dtype=torch.bool)
        kept = max(1, round(community.size * share))
        mask[torch.randperm(community.size, generator=generator)[:kept]] = True
        masks[name] = mask
    return natsel.Survivors(masks, communities)


def result(model, inputs):
    with torch.no_grad():
        output = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    if isinstance(output, torch.Tensor):
        return output
    return output["logits"] if "logits" in output else output["last_hidden_state"]
