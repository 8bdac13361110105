"""Layers of torch itself on ``[B, T, C]``; their heads are the most that divide C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .layers import LIBRARY, Forward, Way


def library(**modules: Callable[[int, int], nn.Module]) -> Callable[[Forward], Forward]:
    """Register a layer made of modules of torch, each given the width and the one inside."""

    def register(forward: Forward) -> Forward:
        def build(width: int, hidden: int) -> dict[str, Any]:
            return {name: module(width, hidden) for name, module in modules.items()}

        LIBRARY[forward.__name__] = Way(forward, build, None)
        return forward

    return register


def _heads(width: int) -> int:
    return next(h for h in (5, 4, 3, 2) if width % h == 0)


def _mha(width: int, hidden: int, **options: Any) -> nn.Module:
    return nn.MultiheadAttention(width, _heads(width), batch_first=True, **options)


def _encoder(width: int, hidden: int, **options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(width, _heads(width), hidden, batch_first=True, **options)


@library(attention=_mha)
def mha(m, x):
    return m.attention(x, x, x)[0]


@library(attention=_mha)
def mha_without_weights(m, x):
    return m.attention(x, x, x, need_weights=False)[0]


@library(attention=_mha)
def mha_with_mask(m, x):
    T = x.shape[1]
    mask = torch.full((T, T), float("-inf"), dtype=x.dtype).triu(1)
    return m.attention(x, x, x, attn_mask=mask, average_attn_weights=False)[0]


@library(attention=lambda w, h: _mha(w, h, kdim=h, vdim=h), keys=lambda w, h: nn.Linear(w, h))
def mha_of_other_width(m, x):
    y = m.keys(x)
    return m.attention(x, y, y, need_weights=False)[0]


@library(attention=lambda w, h: nn.MultiheadAttention(w, _heads(w), bias=False))
def mha_sequence_first(m, x):
    y = x.transpose(0, 1)
    return m.attention(y, y, y)[0].transpose(0, 1)


@library(layer=_encoder)
def encoder_layer(m, x):
    return m.layer(x)


@library(layer=lambda w, h: _encoder(w, h, norm_first=True, activation="gelu"))
def encoder_layer_norm_first(m, x):
    return m.layer(x)


@library(layer=lambda w, h: nn.TransformerDecoderLayer(w, _heads(w), h, batch_first=True))
def decoder_layer(m, x):
    return m.layer(x, x.flip(1))


@library(
    layer=lambda w, h: nn.TransformerEncoder(
        _encoder(w, h, norm_first=True), 2, enable_nested_tensor=False
    )
)
def encoder(m, x):
    return m.layer(x)


@library(layer=lambda w, h: nn.GRU(w, h, batch_first=True), down=lambda w, h: nn.Linear(h, w))
def gru(m, x):
    return m.down(m.layer(x)[0])


@library(layer=lambda w, h: nn.LSTM(w, h, batch_first=True), down=lambda w, h: nn.Linear(h, w))
def lstm(m, x):
    return m.down(m.layer(x)[0])
