"""What each head of a decoder needs of a cache, measured on texts once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import brief, refuse
from natsel.common.modes import evaluating
from natsel.live_populations.experts.registry import are_experts
from natsel.live_populations.ids import check_ids
from natsel.live_populations.kinds import are_tokens


def needs_of_heads(
    model: nn.Module, texts: Iterable[Tensor], budget: Any, *, method: Any = "kvzip", **options: Any
) -> dict[int, Tensor]:
    """Return which part of a text each head holds when all heads share a budget.

    Some heads look far back and need everybody, most need few, and which do is a matter of the
    model more than of the text. So it is measured once, by a method that may read a text twice, and
    ``natsel.live(..., heads=needs)`` lets any method share by it, in one reading.

    Args:
        model: a decoder of the transformers library.
        texts: token ids, ``[batch, tokens]`` each; several, in a list.
        budget: as of :func:`natsel.live`; best the one that the heads will share.
        method: by which they compete: one of a cache.
        options: as of :func:`natsel.live`.

    Returns:
        ``{layer: [heads]}``, a mean over all texts: from 0 to 1.

    Raises:
        ValueError: if there is no text, or an argument is not allowed.

    Source:
        G. Xiao et al., DuoAttention: Efficient Long-Context LLM Inference with Retrieval and
        Streaming Heads, ICLR 2025, which trains which heads are whole, and the others stream.

    Example:
        >>> import transformers, natsel
        >>> sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16}
        >>> config = transformers.LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=2)
        >>> model = transformers.LlamaForCausalLM(config).eval()
        >>> needs = needs_of_heads(model, [torch.arange(20)[None]], natsel.Sparsity(0.5))
        >>> round(float(torch.cat([needs[0], needs[1]]).mean()), 6)
        0.5
        >>> with natsel.live(model, "key-diff", natsel.Sparsity(0.5), heads=needs) as handle:
        ...     _ = model(torch.arange(20)[None])
        >>> handle.num_held
        40
    """
    from natsel.live_populations.live import live

    allowed = "a list of token ids, each a tensor [batch, tokens]"
    if isinstance(texts, Tensor | str) or not isinstance(texts, Iterable):
        refuse("texts", texts, allowed)
    if are_tokens(model, method) or are_experts(method):
        refuse("method", method, "a method of a cache, for needs of heads")
    shares: dict[int, list[Tensor]] = {}
    with evaluating(model), torch.no_grad():
        for text in texts:
            check_ids(model, text, "texts", allowed)
            with live(model, method, budget, **options) as handle:
                model(text)
            for layer in handle.layers:
                shares.setdefault(layer, []).append(handle.held(layer).double() / text.shape[1])
    if not shares:
        refuse("texts", texts, "at least one text")
    return {layer: torch.cat(found).mean(0) for layer, found in shares.items()}


def check_needs(heads: object, layers: Iterable[int]) -> None:
    """Refuse what does not say how much each head of each layer needs, or of another model.

    Raises:
        ValueError: if it does not.
    """
    allowed = "{layer: [heads]}: a tensor of finite numbers >= 0 for each layer"
    if not isinstance(heads, Mapping):
        refuse("heads", heads, allowed)
    known = tuple(layers)
    for layer in known:
        needs = heads.get(layer)
        if not isinstance(needs, Tensor) or needs.dim() != 1 or needs.is_complex():
            refuse("heads", f"{brief(needs)} for layer {layer}", allowed)
        if not bool(needs.isfinite().all() and (needs >= 0).all()):
            refuse("heads", f"{needs.tolist()} for layer {layer}", allowed)
    for layer in heads:
        if layer not in known:
            told = f"numbers for layer {layer!r}"
            refuse("heads", told, f"{{layer: [heads]}} for layers {brief(list(known))} alone")
    if not any(bool(heads[layer].any()) for layer in known):
        refuse("heads", "0 for every head", "some head that needs something")
