"""How the engine is asked: as an attention implementation, for as long as a module's forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from natsel.common.errors import refuse
from natsel.live_populations.cache import rereading
from natsel.live_populations.cache.called import Asked
from natsel.live_populations.cache.finding import (
    check_implementation,
    globals_of,
    is_whole_at,
    layer_of,
)
from natsel.live_populations.cache.layer import LiveLayer
from natsel.live_populations.cache.masks import everybody, padded_of, taken
from natsel.live_populations.cache.session import Session
from natsel.live_populations.entries import Call

NAME = "natsel_live"

BIASES = ("s_aux", "position_bias")
"""Arguments by which attention is decided by more than queries and keys."""


@dataclass(eq=False)
class _Running:
    """A module whose forward is running."""

    session: Session
    module: nn.Module
    layer: LiveLayer
    implementation: str
    hidden_states: Tensor
    arguments: Mapping[str, Any]
    attended: bool = False


_running: list[_Running] = []


def hooked(session: Session, modules: Mapping[int, nn.Module]) -> list[RemovableHandle]:
    """Let a session see what the attention modules of a decoder do.

    While the forward of one runs, its configuration names this engine as the implementation; masks
    are made before, and all else is asked for after, by the implementation that the user chose.

    Args:
        session: that holds the rounds.
        modules: the attention modules by layer.

    Returns:
        What takes the hooks away.
    """
    if session.is_idle:
        return idle(session, modules)
    handles: list[RemovableHandle] = []
    AttentionInterface.register(NAME, _attend)
    for index, module in modules.items():
        before, after = _hooks(session, index)
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, always_call=True))
    if session.rereading.decoder is not None:
        handles += rereading.hooked(session, session.rereading.decoder)
    return handles


def idle(session: Session, modules: Mapping[int, nn.Module]) -> list[RemovableHandle]:
    """Look on where nobody ever leaves: one look before a call and one after, and no attention.

    A cache that was thinned before needs its masks: the engine is asked then, from the first layer
    of that call on.

    Args:
        session: whose budget takes nobody.
        modules: the attention modules by layer.

    Returns:
        What takes the hooks away, now and after the engine was asked.
    """
    first, last = min(modules), max(modules)
    handles: list[RemovableHandle] = []
    looked: list[tuple[Cache, Tensor | None]] = []

    def before(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        cache = _cache_of(args, named)
        if cache is None or not all(is_whole_at(cache, index) for index in modules):
            _wake(session, modules, handles)
            _hooks(session, first)[0](module, args, named)
            return
        check_implementation(module)
        looked[:] = [(cache, named.get("attention_mask"))]  # a call before may have failed

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if looked and output is not None:
            cache, mask = looked[0]
            session.tell(cache, None if mask is None else padded_of(mask, mask.shape[-1]))
        looked.clear()

    handles.append(modules[first].register_forward_pre_hook(before, with_kwargs=True))
    handles.append(modules[last].register_forward_hook(after, always_call=True))
    return handles


def _running_in(module: nn.Module) -> _Running | None:
    """Return the forward of a module that is running: other threads run other decoders."""
    return next((each for each in reversed(_running[:]) if each.module is module), None)


def recover(session: Session) -> None:
    """Give modules their implementation back where a call was interrupted.

    Hooks follow a forward that fails, but not one that is stopped from the keyboard.
    """
    for running in [each for each in _running[:] if each.session is session]:
        config: Any = running.module.config
        config._attn_implementation_internal = running.implementation
        _running.remove(running)


def _wake(session: Session, modules: Mapping[int, nn.Module], handles: list[Any]) -> None:
    """Put the engine in the place of who only looks on."""
    for handle in handles:
        handle.remove()
    session.is_idle = False
    handles[:] = hooked(session, modules)


def _cache_of(args: tuple[Any, ...], named: Mapping[str, Any]) -> Cache | None:
    return next((x for x in (*args, *named.values()) if isinstance(x, Cache)), None)


def _hooks(session: Session, index: int) -> tuple[Callable[..., None], Callable[..., None]]:
    def before(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        recover(session)
        cache = _cache_of(args, named)
        layer = layer_of(cache, index, for_proof=session.for_proof)
        if session.method.rereads:
            session.rereading.cache = cache
        session.take(layer)
        implementation = check_implementation(module)
        hidden = named["hidden_states"] if "hidden_states" in named else args[0]
        _running.append(_Running(session, module, layer, implementation, hidden, named))
        config: Any = module.config
        config._attn_implementation_internal = NAME  # the setter would change sub-models, too

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        running = _running_in(module)
        if running is None:
            return  # it was refused before it began
        _running.remove(running)
        config: Any = module.config
        config._attn_implementation_internal = running.implementation
        if output is not None and not running.attended:
            told = f"{type(module).__name__} at layer {index}"
            refuse("model", told, "attention that asks the library's table of implementations")

    return before, after


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,  # kvpress, once imported, gives it by position
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend to who is held, by the implementation that the user chose, and hold a round."""
    running = _running_in(module)
    assert running is not None
    layer = running.layer
    running.attended = True
    padded = padded_of(attention_mask, layer.seen - layer.judged)
    layer.judged = layer.seen
    if padded is not None:
        layer.hide(padded)
    known = globals_of(module)
    base = known["ALL_ATTENTION_FUNCTIONS"].get_interface(
        running.implementation, known.get("eager_attention_forward")
    )
    mask = _mask_of(layer, attention_mask, query)
    output, weights = base(module, query, key, value, mask, dropout=dropout, **kwargs)
    scaling = kwargs.get("scaling")
    biased = next((name for name in BIASES if kwargs.get(name) is not None), "")
    asked = Asked(
        query.detach(),
        partial(_positions, layer.seen, query, padded),
        query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        kwargs.get("softcap"),
        Call(module, running.hidden_states, running.arguments, weights, biased),
    )
    running.session.after(module.layer_idx, layer, asked)  # type: ignore[arg-type]
    return output, weights


def _positions(seen: int, query: Tensor, padded: Tensor | None) -> Tensor:
    """Return where the queries of a call stand, ``[batch, queries]``, -1 for padding."""
    num_new = query.shape[2]
    at = torch.arange(seen - num_new, seen, device=query.device, dtype=torch.int32)
    at = at.expand(query.shape[0], -1)
    return at if padded is None else at.masked_fill(padded[:, -num_new:], -1)


def _mask_of(layer: LiveLayer, mask: Tensor | None, query: Tensor) -> Tensor | None:
    heads = query.shape[1]
    if not layer.is_thinned:
        return mask
    if layer.for_proof:
        return everybody(mask, layer.places(), heads, layer.seen)
    if mask is None and layer.is_rectangle:
        return None
    if mask is not None and mask.shape[-1] == layer.keys.shape[-2] and layer.is_rectangle:
        return mask  # made for what is held, before this call took the layer over
    at, tokens = layer.places(), layer.seen
    return taken(mask, at, heads, tokens=tokens, dtype=query.dtype, mass=layer.mass)
