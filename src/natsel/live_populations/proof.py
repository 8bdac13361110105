"""That who stays computes what all compute with the others hidden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.common.modes import evaluating
from natsel.common.numbers import check_whole
from natsel.communities.proof.doubled import in_float64
from natsel.extraction import Verification
from natsel.live_populations.allowances import Bytes, Held, check_allowance
from natsel.live_populations.cache.attach import attach
from natsel.live_populations.experts.proof import logits_of
from natsel.live_populations.experts.registry import ExpertMethod, are_experts
from natsel.live_populations.experts.registry import get as expert_method
from natsel.live_populations.ids import check_ids
from natsel.live_populations.kinds import CACHE, OF_EXPERTS, are_tokens
from natsel.live_populations.proof_verdict import verdict
from natsel.live_populations.registry import Method, Scorer, get
from natsel.live_populations.tokens import TokenMethod, TokenScorer
from natsel.live_populations.tokens.proof import prove as prove_tokens
from natsel.selection import Sparsity

DEFAULTS: Mapping[str, Any] = {**CACHE, "merge": False, "seed": 0}


def prove(
    model: nn.Module,
    method: str | Method | Scorer | TokenMethod | TokenScorer | ExpertMethod,
    budget: Sparsity | Held | Bytes | None,
    inputs: Tensor,
    *,
    attention_mask: Tensor | None = None,
    num_new: int = 4,
    **options: Any,
) -> Verification:
    """Compare a thinned cache with the whole one under a mask of -inf, in float64.

    The prompt is read and some tokens are added greedily, once with the entries gone and once with
    everybody held and the same entries hidden from attention. Of a method of experts the inputs are
    read once with fewer, and once with all computed, where what a router found of who left is
    closed before it normalizes and scales as it does. Every operator reads its tensors in float64,
    whatever the model's precision and whatever casts its forward names.

    Of a vision transformer, all tokens go through the model a second time: those that were gone
    are hidden, and those that had merged go on as so many duplicates of what they merged into.

    Args:
        model: a decoder or a vision transformer, which is left as it is.
        method: as of :func:`natsel.live`.
        budget: as of :func:`natsel.live`.
        inputs: token ids, ``[batch, tokens]``, or images.
        attention_mask: 0 where they are padding, ``[batch, tokens]``.
        num_new: how many tokens are added; none by a method of experts.
        options: as of :func:`natsel.live`, of a decoder's cache without ``merge``.

    Returns:
        The verdict; ``effect`` is what the eviction changes of the outputs.

    Raises:
        ValueError: if an argument is not allowed.
    """
    check_whole("num_new", num_new)
    if are_tokens(model, method):
        if attention_mask is not None:
            refuse("attention_mask", attention_mask, "None for the tokens of a vision transformer")
        return prove_tokens(model, method, budget, inputs, **options)
    check_ids(model, inputs, "inputs", "token ids of shape [batch, tokens]")
    if attention_mask is not None and (
        not isinstance(attention_mask, Tensor) or attention_mask.shape != inputs.shape
    ):
        allowed = f"None, or 0 and 1 of shape {tuple(inputs.shape)}, as the tokens are"
        refuse("attention_mask", attention_mask, allowed)
    allowance = check_allowance(budget)
    if are_experts(method):
        engine = {name: options.pop(name, default) for name, default in OF_EXPERTS.items()}
        experts = expert_method(method).bound(options)
        with evaluating(model), in_float64(), torch.no_grad():
            found = logits_of(model, experts, allowance, inputs, attention_mask, engine)
        return verdict(*([each] for each in found), what="logits")
    engine = {name: options.pop(name, default) for name, default in DEFAULTS.items()}
    bound = get(method).bound(options)  # type: ignore[arg-type]
    prompt = inputs.shape[1]

    def thinned(tokens: Tensor, *, for_proof: bool) -> tuple[Tensor, Tensor]:
        with attach(model, bound, allowance, **engine, for_proof=for_proof):
            return _continued(model, tokens, prompt, attention_mask, num_new)

    with evaluating(model), in_float64():
        logits, tokens = thinned(inputs, for_proof=False)
        hidden, _ = thinned(tokens, for_proof=True)
        whole, _ = _continued(model, tokens, prompt, attention_mask, num_new)
    return verdict([logits], [hidden], [whole], what="logits")


def _continued(
    model: Any, tokens: Tensor, prompt: int, attention_mask: Tensor | None, num_new: int
) -> tuple[Tensor, Tensor]:
    """Return the logits of the tokens that follow a prompt, and all tokens.

    Tokens that are not there yet are added greedily.
    """
    mask = torch.ones_like(tokens[:, :prompt]) if attention_mask is None else attention_mask
    found, new, cache = [], tokens[:, :prompt], None
    for step in range(num_new + 1):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -new.shape[1] :]
        output = model(
            input_ids=new,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        found.append(output.logits[:, -1])
        if step == num_new:
            break
        if tokens.shape[1] <= prompt + step:
            tokens = torch.cat([tokens, found[-1].argmax(-1, keepdim=True)], 1)
        new = tokens[:, prompt + step : prompt + step + 1]
        mask = torch.cat([mask, torch.ones_like(new)], 1)
    return torch.stack(found[1:], 1), tokens
