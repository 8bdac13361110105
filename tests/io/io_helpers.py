"""What the tests of this folder share."""

from __future__ import annotations

import torch

import natsel


def without_cache(model):
    """Attention caches are for generation; comparing them is not what the tests are about."""
    for module in model.modules():
        if hasattr(module, "config"):
            module.config.use_cache = False
    return model


def survivors_of(communities, cut, seed=1):
    if cut == "even":
        scores = natsel.score(communities, "magnitude")
        return natsel.select(scores, natsel.Sparsity(0.5))
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for i, (name, community) in enumerate(communities.items()):
        count = max(1, round(community.size * (0.75 if i % 4 < 2 else 0.5)))
        mask = torch.zeros(community.size, dtype=torch.bool)
        mask[torch.randperm(community.size, generator=generator)[:count]] = True
        masks[name] = mask
    return natsel.Survivors(masks, communities)


def result(model, inputs):
    with torch.no_grad():
        output = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    if isinstance(output, torch.Tensor):
        return output
    return output["logits"] if "logits" in output else output["last_hidden_state"]
