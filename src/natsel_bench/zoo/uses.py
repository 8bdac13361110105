"""What a small model is for: it trains a step, and generates with a cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from natsel.common.calls import Inputs, call, outputs_of, tensors_of_inputs
from natsel_bench.zoo.masked import doubled, gone_from, in_float64, masked

NEW_TOKENS = 4


def train(small: nn.Module, inputs: Inputs) -> str:
    """Train a step on the squares of its outputs, and run what comes out; say how that ends."""
    small.train()
    learning = [p for p in small.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1e-3)
    found = [x for x in outputs_of(call(small, inputs)) if x.is_floating_point()]
    losses = [x.float().square().mean() for x in found if x.requires_grad]
    torch.autograd.backward(losses)
    reached = [p.grad for p in learning if p.grad is not None]
    if not reached or not all(bool(g.isfinite().all()) for g in reached):
        return "its gradients are not finite" if reached else "no gradient reaches a weight"
    optimizer.step()
    small.eval()
    with torch.no_grad():
        call(small, inputs)
    return "ok"


def generate(dense: nn.Module, small: nn.Module, inputs: Inputs) -> str:
    """Compare tokens by cache, of the small and of the masked model."""
    twin, closed = masked(dense, gone_from(dense, small))
    if closed:
        twin = in_float64(small)  # a closed router has no weights to run on
    prompt = tensors_of_inputs(inputs)[0]
    options: dict[str, Any] = {
        "max_new_tokens": NEW_TOKENS,
        "min_new_tokens": NEW_TOKENS,
        "do_sample": False,
    }
    options |= {"pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}
    with torch.no_grad(), doubled():
        theirs = twin.generate(prompt, use_cache=False, **options)  # type: ignore[operator]
        mine = in_float64(small)
        ours = mine.generate(prompt, use_cache=True, **options)  # type: ignore[operator]
    return "ok" if torch.equal(ours, theirs) else "other tokens"
