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
from natsel.live_populations.registry import Method, Scorer, get
from natsel.selection import Sparsity

TOLERANCE = 1e-6
"""Of the effect of the eviction, as everywhere in natsel."""

OF_EXPERTS: Mapping[str, Any] = {"floor": 1, "scope": None, "seed": 0}
DEFAULTS: Mapping[str, Any] = {
    **{"sinks": None, "window": None, "floor": 1, "scope": "head", "normalize": "mean"},
    **{"merge": False, "decoding": True, "seed": 0},
}


def prove(
    model: nn.Module,
    method: str | Method | Scorer | ExpertMethod,
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

    Args:
        model: a decoder, which is left as it is.
        method: as of :func:`natsel.live`.
        budget: as of :func:`natsel.live`.
        inputs: token ids, ``[batch, tokens]``.
        attention_mask: 0 where they are padding, ``[batch, tokens]``.
        num_new: how many tokens are added; none by a method of experts.
        options: as of :func:`natsel.live`, but ``merge``.

    Returns:
        The verdict; ``effect`` is what the eviction changes of the logits.

    Raises:
        ValueError: if an argument is not allowed.
    """
    check_whole("num_new", num_new)
    if not isinstance(inputs, Tensor) or inputs.dim() != 2:
        refuse("inputs", inputs, "token ids of shape [batch, tokens]")
    allowance = check_allowance(budget)
    if are_experts(method):
        engine = {name: options.pop(name, default) for name, default in OF_EXPERTS.items()}
        experts = expert_method(method).bound(options)
        with evaluating(model), in_float64(), torch.no_grad():
            found = logits_of(model, experts, allowance, inputs, attention_mask, engine)
        return _verdict(*found, what="what fewer experts change")
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
    return _verdict(logits, hidden, whole, what="what the eviction changes")


def _verdict(logits: Tensor, hidden: Tensor, whole: Tensor, *, what: str) -> Verification:
    gap = float((logits - hidden).abs().max())
    effect = float((hidden - whole).abs().max())
    size = float(hidden.abs().max())
    error = gap / effect if effect > 0 else gap / max(size, 1.0)
    finite = bool(logits.isfinite().all() and hidden.isfinite().all())
    passed = finite and error <= TOLERANCE
    reason = f"the logits differ by {error:.1e} of {what}"
    return Verification(
        max_abs_difference=gap,
        max_rel_difference=gap / size if size > 0 else 0.0,
        max_abs_difference_float64=gap,
        tolerance=TOLERANCE,
        passed=passed,
        effect=effect,
        error=error,
        reason="" if passed else (reason if finite else "a logit is NaN or infinite"),
    )


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
