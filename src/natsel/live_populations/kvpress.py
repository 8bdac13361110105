"""Scorers written for NVIDIA's kvpress run here, and ours there; it need not be installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.live_populations.entries import Call, Entries
from natsel.live_populations.registry import Method, Scorer, get

PressScore = Callable[
    [nn.Module, Tensor, Tensor, Tensor, "Tensor | None", Mapping[str, Any]], Tensor
]
"""``score(module, hidden_states, keys, values, attentions, kwargs)``."""


def from_kvpress(press: Any) -> Scorer:
    """Return a scorer that asks one of kvpress.

    It sees the entries that are held: keys and values of their cache, what the attention module
    read in this call, its arguments by name, and the weights that the attention implementation
    gave, or None. Scorers that compare the hidden states with the keys one by one expect a whole
    prompt in one call: use them with ``decoding=False``. Their own ratio of compression is not
    read.

    Args:
        press: an object with a method ``score`` of that form, as a ``ScorerPress`` is, or a
            function of that form.

    Returns:
        A function from entries to scores, for :func:`natsel.live`.

    Raises:
        ValueError: if it is neither.

    Example:
        >>> import natsel
        >>> def longest_value(module, hidden_states, keys, values, attentions, kwargs):
        ...     return values.norm(dim=-1)
        >>> scorer = from_kvpress(longest_value)
    """
    score = getattr(press, "score", press)
    if not callable(score) or isinstance(press, type):
        refuse("press", press, "an object with a method score, or a function like it")

    def scorer(entries: Entries) -> Tensor:
        call = entries.call
        assert call is not None
        attentions, arguments = call.attentions, dict(call.arguments)
        scores: Tensor = score(
            call.module, call.hidden_states, entries.keys, entries.values, attentions, arguments
        )
        return scores

    scorer.__name__ = type(press).__name__ if hasattr(press, "score") else press.__name__
    return scorer


def to_kvpress(method: str | Method | Scorer, *, window: int | None = None) -> PressScore:
    """Return a scorer as kvpress calls one, for a whole prompt.

    kvpress shows a scorer no queries. They are computed again, from the module's ``q_proj`` and
    the position embeddings among ``kwargs``, where it has them. Its floor is in the scores: the
    first and the newest entries that the method protects get more than any other.

    Args:
        method: as of :func:`natsel.live`.
        window: how many of the newest entries are protected, and vote; None for the method's.

    Returns:
        ``score(module, hidden_states, keys, values, attentions, kwargs)``, to be set as the
        ``score`` of a ``ScorerPress``.

    Example:
        >>> import torch
        >>> score = to_kvpress("key-norm")
        >>> keys = torch.tensor([[[[3.0, 4.0], [0.0, 1.0]]]])
        >>> score(torch.nn.Identity(), torch.zeros(1, 2, 8), keys, keys, None, {})
        tensor([[[-5., -1.]]])
    """
    found = get(method)
    if found.rereads:
        refuse(
            "method", found.name, "one that reads a prompt once: kvpress reads it no second time"
        )
    newest = found.window if window is None else window

    @torch.no_grad()
    def score(
        module: nn.Module,
        hidden_states: Tensor,
        keys: Tensor,
        values: Tensor,
        attentions: Tensor | None,
        kwargs: Mapping[str, Any],
    ) -> Tensor:
        tokens = keys.shape[2]
        places = torch.arange(tokens, device=keys.device, dtype=torch.int32)
        at = places.expand(keys.shape[0], -1)
        queries = _queries_of(module, hidden_states, keys, kwargs)
        scaling = getattr(module, "scaling", None)
        scores = found.score(
            Entries(
                keys=keys,
                values=values,
                positions=places.expand(*keys.shape[:2], -1),
                queries=queries,
                query_positions=at[:, tokens - queries.shape[2] :],
                num_new=queries.shape[2],
                scaling=keys.shape[-1] ** -0.5 if scaling is None else float(scaling),
                window=min(newest, tokens),
                call=Call(module, hidden_states, kwargs, attentions),
            )
        )
        stays = (places < found.sinks) | (places >= tokens - newest)
        return scores.masked_fill(stays, float(scores.max()) + 1) if bool(stays.any()) else scores

    return score


def _queries_of(
    module: nn.Module, hidden_states: Tensor, keys: Tensor, kwargs: Mapping[str, Any]
) -> Tensor:
    """Return the queries of a prompt, or none for a module that shows none."""
    from natsel.live_populations.cache.finding import globals_of

    project: Any = getattr(module, "q_proj", None)
    embeddings = kwargs.get("position_embeddings")
    rotate = globals_of(module).get("apply_rotary_pos_emb")
    if project is None or embeddings is None or rotate is None or hasattr(module, "rotary_ndims"):
        return keys.new_zeros(keys.shape[0], keys.shape[1], 0, keys.shape[-1])
    shape = (*hidden_states.shape[:-1], -1, keys.shape[-1])
    queries = project(hidden_states).view(shape)
    norm: Any = getattr(module, "q_norm", None)
    queries = (queries if norm is None else norm(queries)).transpose(1, 2)
    rotated: Tensor = rotate(queries, queries, *embeddings)[0]
    return rotated
