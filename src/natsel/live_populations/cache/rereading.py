"""The second reading of a prompt: what it asks of its own entries, before anybody leaves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import Cache, DynamicLayer

from natsel.common.errors import refuse
from natsel.live_populations.cache.session import Session

CHUNK = 512
"""Tokens that are read again at one time: so much the cache grows meanwhile."""
LEAD = 8
"""Tokens before a chunk that are read with it, so that its first token is known to follow."""
OF_TOKENS = ("attention_mask", "position_ids", "token_type_ids")
"""What a decoder is told of its tokens, ``[batch, tokens]``, and told again."""


def hooked(session: Session, decoder: nn.Module) -> list[RemovableHandle]:
    """Let what a call of several tokens brought be read again at its end.

    Whoever is held is asked by the same tokens, which follow once more: what they attend to is what
    it takes to say the prompt again. The cache is then as it was, and the rounds of selection that
    waited are held.

    Args:
        session: whose method asks for it.
        decoder: that reads tokens.

    Returns:
        What takes the hooks away.
    """
    rereading = session.rereading
    calls: list[Mapping[str, Any]] = []

    def before(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not rereading.is_running:
            rereading.waiting.clear()
            calls[:] = [_arguments(module, args, named)]

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if rereading.is_running:
            return
        given, cache = calls.pop() if calls else {}, rereading.cache
        try:
            if output is not None and rereading.waiting and cache is not None:
                rereading.is_running = True
                _read_again(module, given, cache)
                rereading.is_running = False
                session.read_again()
        finally:
            rereading.is_running = False
            rereading.cache = None  # which dies with the input
            rereading.waiting.clear()

    return [
        decoder.register_forward_pre_hook(before, with_kwargs=True),
        decoder.register_forward_hook(after, always_call=True),
    ]


def _arguments(module: nn.Module, args: Any, named: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a module is called with, by name."""
    signature = inspect.signature(module.forward)
    given = dict(signature.bind(*args, **named).arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(parameter.name, {})
    return given


@torch.no_grad()
def _read_again(decoder: nn.Module, given: Mapping[str, Any], cache: Cache) -> None:
    name = "input_ids" if given.get("input_ids") is not None else "inputs_embeds"
    tokens = given.get(name)
    mask, positions, types = (given.get(argument) for argument in OF_TOKENS)
    for argument in OF_TOKENS:
        value = given.get(argument)
        if value is not None and (not isinstance(value, Tensor) or value.dim() != 2):
            refuse(argument, value, "None or [batch, tokens], for a method that reads twice")
    for argument, value in given.items():
        if isinstance(value, Tensor) and argument not in (name, *OF_TOKENS, "cache_position"):
            refuse(argument, value, "None, for a method that reads twice")
    others = [type(layer).__name__ for layer in cache.layers if not isinstance(layer, DynamicLayer)]
    if others:
        refuse("past_key_values", others[0], "dynamic layers only, for a method that reads twice")
    assert isinstance(tokens, Tensor)
    seen = cache.get_seq_length()
    num, first = tokens.shape[1], seen if positions is None else int(positions.max()) + 1
    before = [dict(vars(layer)) for layer in cache.layers]
    try:
        for part in parts(num, _room(decoder, first)):
            again: dict[str, Any] = {name: tokens[:, part], "past_key_values": cache}
            at = torch.arange(part.stop - part.start, device=tokens.device)[None]
            if mask is not None:
                new = mask[:, -num:][:, part]
                again["attention_mask"] = torch.cat([mask, new], 1)
                at = (new.cumsum(-1) - 1).clamp(min=0)
            if types is not None:
                again["token_type_ids"] = types[:, -num:][:, part]
            if positions is not None:
                again["position_ids"] = positions.amax(-1, keepdim=True) + 1 + at
            decoder(**again, use_cache=True)
            _restore(cache, before)
    finally:
        _restore(cache, before)


def _restore(cache: Cache, before: list[dict[str, Any]]) -> None:
    """Let layers be what they were: none of their tensors was written into."""
    for layer, state in zip(cache.layers, before, strict=True):
        vars(layer).clear()
        vars(layer).update(state)


def _room(decoder: nn.Module, first: int) -> int:
    """Return how many tokens can be read again at one time, from a position on."""
    config: Any = getattr(decoder, "config", None)
    most = getattr(config, "max_position_embeddings", None)
    room = CHUNK if not isinstance(most, int) else min(CHUNK, most - first)
    if room <= LEAD:
        told = f"at most {int(most or 0) - LEAD - 1}, since they are read twice, for this method"
        refuse("inputs", f"{first} tokens", told)
    return room


def parts(num: int, size: int) -> Iterator[slice]:
    """Yield what is read at one time: each but the first begins with the last of the one before.

    Args:
        num: tokens in all.
        size: of a part, more than the 8 tokens that stand in two.

    Example:
        >>> list(parts(30, 16))
        [slice(0, 16, None), slice(8, 24, None), slice(16, 30, None)]
    """
    start = 0
    while start < num:
        begin = max(start - LEAD, 0)
        start = min(begin + size, num)
        yield slice(begin, start)
