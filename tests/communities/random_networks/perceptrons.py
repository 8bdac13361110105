"""Perceptrons on ``[B, T, C]`` in the ways in which people write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .layers import matrix, perceptron


@perceptron()
def plain(m, x):
    return m.down(F.gelu(m.up(x)))


@perceptron()
def saturated(m, x):
    return m.down(torch.tanh(m.up(x) * 20))


@perceptron(parts=lambda w, h: {"middle": nn.Linear(h, h + 3), "down": nn.Linear(h + 3, w)})
def three_layers(m, x):
    return m.down(m.middle(m.up(x).relu()).relu())


@perceptron(2)
def glu_chunk(m, x):
    a, b = m.up(x).chunk(2, -1)
    return m.down(a * F.silu(b))


@perceptron(2)
def glu_function(m, x):
    return m.down(F.glu(m.up(x)))


@perceptron(2)
def glu_split_own_size(m, x):
    y = m.up(x)
    a, b = y.split(y.shape[-1] // 2, -1)
    return m.down(a * b.sigmoid())


@perceptron(2)
def glu_slices_own_size(m, x):
    y = m.up(x)
    half = y.shape[-1] // 2
    return m.down(y[..., :half] * y[..., half:].sigmoid())


@perceptron(2)
def glu_slices_attribute(m, x):
    y = m.up(x)
    return m.down(y[..., : m.hidden] * y[..., m.hidden :].sigmoid())


@perceptron(2)
def glu_interleaved(m, x):
    y = m.up(x)
    return m.down(y[..., ::2] * y[..., 1::2].sigmoid())


@perceptron(2)
def glu_unflatten(m, x):
    a, b = m.up(x).unflatten(-1, (2, -1)).unbind(-2)
    return m.down(a * b.sigmoid())


@perceptron(2)
def glu_pairs(m, x):
    return m.down(m.up(x).unflatten(-1, (-1, 2)).amax(-1))


@perceptron(2)
def maxout(m, x):
    y = m.up(x)
    return m.down(y.view(*y.shape[:-1], y.shape[-1] // 2, 2).max(-1).values)


@perceptron(parts=lambda w, h: {"gate": nn.Linear(w, h, bias=False)})
def gated(m, x):
    return m.down(F.silu(m.gate(x)) * m.up(x))


@perceptron(parts=lambda w, h: {"gate": nn.Linear(w, h)})
def highway(m, x):
    t = m.gate(x).sigmoid()
    return m.down(t * m.up(x).tanh() + (1 - t))


@perceptron(down=2, parts=lambda w, h: {"other": nn.Linear(w, h)})
def concatenated(m, x):
    return m.down(torch.cat((m.up(x).relu(), m.other(x).tanh()), -1))


@perceptron(down=2)
def concatenated_self(m, x):
    y = m.up(x)
    return m.down(torch.cat((y.relu(), (-y).relu()), -1))


@perceptron(
    2, parts=lambda w, h: {"other": nn.Linear(h, w), "down": nn.Linear(h, w)}, removable=None
)
def two_halves(m, x):
    y = m.up(x).relu()
    half = y.shape[-1] // 2
    return m.down(y[..., :half]) + m.other(y[..., half:])


@perceptron(2, parts=lambda w, h: {"other": nn.Linear(h, w)}, removable=None)
def two_chunks(m, x):
    a, b = m.up(x).relu().chunk(2, -1)
    return m.down(a) + m.other(b)


@perceptron(
    parts=lambda w, h: {"down": nn.Linear(h // 3, w), "other": nn.Linear(h - h // 3, w)},
    removable=None,
)
def uneven_parts(m, x):
    y = m.up(x).relu()
    cut = y.shape[-1] // 3
    return m.down(y[..., :cut]) + m.other(y[..., cut:])


@perceptron(
    parts=lambda w, h: {"down": nn.Linear(h // 3, w), "other": nn.Linear(h - h // 3, w)},
    removable=None,
)
def uneven_split(m, x):
    a, b = m.up(x).relu().split([m.hidden // 3, m.hidden - m.hidden // 3], -1)
    return m.down(a) + m.other(b)


@perceptron(3, parts=lambda w, h: {"other": nn.Linear(h, w)}, removable=None)
def three_chunks(m, x):
    a, b, c = m.up(x).chunk(3, -1)
    return m.down(a * b.sigmoid()) + m.other(c.relu())


@perceptron(parts=lambda w, h: {"other": nn.Linear(w, h)})
def summed(m, x):
    return m.down((m.up(x) + m.other(x)).relu())


@perceptron(parts=lambda w, h: {"up": matrix(h, w), "down": nn.Identity()})
def tied(m, x):
    return F.linear(F.linear(x, m.up).relu(), m.up.t())


@perceptron(parts=lambda w, h: {"down2": nn.Linear(h, w)})
def read_twice(m, x):
    y = m.up(x).relu()
    return m.down(y) * m.down2(y).sigmoid()


@perceptron()
def used_twice(m, x):
    return m.down(m.up(x).relu()) + m.down(m.up(x.roll(1, 1)).tanh())


@perceptron(parts=lambda w, h: {"recur": nn.Linear(h, h)})
def recurrent(m, x):
    y = m.up(x).tanh()
    return m.down(m.recur(y).tanh() + y)


@perceptron(
    parts=lambda w, h: {"scale": torch.rand(h) + 0.5, "shift": nn.Parameter(torch.zeros(h))}
)
def scaled_by_buffer(m, x):
    return m.down((m.up(x) * m.scale.to(x.dtype)).relu() + m.shift)


@perceptron(parts=lambda w, h: {"norm": nn.LayerNorm(h)}, removable=False)
def normed(m, x):
    return m.down(m.norm(m.up(x)).relu())


@perceptron(parts=lambda w, h: {"norm": nn.RMSNorm(h)}, removable=False)
def rms_normed(m, x):
    return m.down(m.norm(m.up(x)).relu())


@perceptron(parts=lambda w, h: {"norm": nn.BatchNorm1d(h)})
def batch_normed(m, x):
    return m.down(m.norm(m.up(x).transpose(1, 2)).transpose(1, 2).relu())


@perceptron(parts=lambda w, h: {"norm": nn.GroupNorm(h // 2, h)}, removable=None)
def group_normed(m, x):
    return m.down(m.norm(m.up(x).transpose(1, 2)).transpose(1, 2).relu())


@perceptron(removable=False)
def softmax_over(m, x):
    return m.down(m.up(x).softmax(-1))


@perceptron(removable=False)
def centred(m, x):
    y = m.up(x)
    return m.down(y - y.mean(-1, keepdim=True))


@perceptron(removable=False)
def normalized(m, x):
    return m.down(F.normalize(m.up(x), dim=-1))


@perceptron(removable=False)
def cumulative(m, x):
    return m.down(m.up(x).cumsum(-1))


@perceptron(removable=False)
def sorted_over(m, x):
    return m.down(m.up(x).sort(-1).values)


@perceptron(removable=False)
def over_size(m, x):
    y = m.up(x).relu()
    return m.down(y / y.size(-1))


@perceptron(removable=None)
def over_attribute(m, x):
    return m.down(m.up(x).relu() * m.hidden**-0.5)


@perceptron(removable=None)
def viewed_attribute(m, x):
    B, T, _ = x.shape
    return m.down(m.up(x).relu().view(B * T, m.hidden)).view(B, T, -1)


@perceptron(removable=None)
def viewed_and_scaled(m, x):
    B, T, _ = x.shape
    y = m.up(x).relu().view(B * T, m.hidden) / m.hidden
    return m.down(y).view(B, T, -1)


@perceptron(removable=False)
def rolled(m, x):
    y = m.up(x).relu()
    return m.down(y + y.roll(1, -1))


@perceptron(removable=None)
def flipped(m, x):
    return m.down(m.up(x).relu().flip(-1))


@perceptron(removable=None)
def flipped_sum(m, x):
    y = m.up(x).relu()
    return m.down(y + y.flip(-1))


@perceptron(removable=None)
def shuffled(m, x):
    y = m.up(x).relu()
    return m.down(y.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2))


@perceptron(removable=False)
def shifted(m, x):
    y = m.up(x)
    return m.down(y + F.pad(y, (1, -1)))


@perceptron(removable=False)
def largest_kept(m, x):
    y = m.up(x)
    return m.down(y * (y >= y.topk(3, -1).values[..., -1:]))


@perceptron(removable=False)
def pooled_over(m, x):
    y = m.up(x)
    return m.down(F.avg_pool1d(y, 3, 1, 1))


@perceptron(parts=lambda w, h: {"mix": nn.Conv1d(h, h, 3, padding=1, groups=h)})
def depthwise_1d(m, x):
    return m.down(m.mix(m.up(x).transpose(1, 2)).transpose(1, 2).relu())


@perceptron(parts=lambda w, h: {"gate": nn.Linear(h, 1)})
def gate_of_hidden(m, x):
    y = m.up(x).relu()
    return m.down(y * m.gate(y).sigmoid())


@perceptron(parts=lambda w, h: {"experts": nn.Linear(w, 2)}, up=2, removable=None)
def soft_experts(m, x):
    y = m.up(x).relu().unflatten(-1, (2, -1))
    return m.down((y * m.experts(x).softmax(-1).unsqueeze(-1)).sum(-2))


@perceptron(removable=None, parts=lambda w, h: {"norm": nn.Parameter(torch.ones(h))})
def weight_scaled(m, x):
    return F.linear(m.up(x).relu(), m.down.weight * m.norm, m.down.bias)


@perceptron(removable=None)
def double_island(m, x):
    y = m.up(x).float()
    return m.down((y * torch.sigmoid(1.702 * y)).to(x.dtype))


@perceptron(removable=False)
def spectral(m, x):
    return m.down(m.up(x) / m.up.weight.norm())


@perceptron(removable=False)
def quantized(m, x):
    y = m.up(x)
    s = y.abs().amax(-1, keepdim=True) + 1e-3
    return m.down((y / s).round() * s)


@perceptron(removable=None)
def viewed_out_features(m, x):
    B, T, _ = x.shape
    return m.down(m.up(x).relu().view(B * T, m.up.out_features)).view(B, T, -1)


@perceptron(removable=False)
def over_out_features(m, x):
    return m.down(m.up(x).relu() / m.up.out_features)


@perceptron(removable=False)
def over_rows(m, x):
    return m.down(m.up(x).relu() * len(m.up.weight) ** -0.5)


@perceptron(2, removable=None)
def glu_slices_out_features(m, x):
    y, half = m.up(x), m.up.out_features // 2
    return m.down(y[..., :half] * y[..., half:].sigmoid())


@perceptron(removable=False)
def odd_or_even(m, x):
    y = m.up(x)
    return m.down(y.relu() if y.shape[-1] % 2 else y.tanh())


@perceptron(removable=False)
def narrow_or_wide(m, x):
    y = m.up(x)
    return m.down(y.relu() if y.shape[-1] < 3 else y.tanh())


@perceptron(removable=None)
def broadcast_parts(m, x):
    y = m.up(x).relu()
    return m.down(y * torch.ones(y.shape[-1], dtype=y.dtype) + y.new_zeros(m.hidden)[:1])


@perceptron(parts=lambda w, h: {"gate": nn.Linear(w, 1)})
def gated_by_one(m, x):
    return m.down(m.up(x).relu() * m.gate(x).sigmoid())
