"""Layers of convolutions on ``[B, C, H, W]`` in the ways in which people write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .layers import convolution, matrix


@convolution(kernel=3)
def conv_plain(m, x):
    return m.down(m.up(x).relu())


@convolution(kernel=3, parts=lambda w, h: {"norm": nn.BatchNorm2d(h)})
def conv_batch_norm(m, x):
    return m.down(m.norm(m.up(x)).relu())


@convolution(
    parts=lambda w, h: {
        "middle": nn.Conv2d(h, h, 3, padding=1, groups=h),
        "norm": nn.BatchNorm2d(h),
    }
)
def depthwise(m, x):
    return m.down(m.norm(m.middle(m.up(x).relu())).relu())


@convolution(down=2, parts=lambda w, h: {"middle": nn.Conv2d(h, 2 * h, 3, padding=1, groups=h)})
def depthwise_twice(m, x):
    return m.down(m.middle(m.up(x).relu()).relu())


@convolution(
    2,
    2,
    parts=lambda w, h: {"middle": nn.Conv2d(2 * h, 2 * h, 3, padding=1, groups=2)},
    removable=None,
)
def grouped(m, x):
    return m.down(m.middle(m.up(x).relu()).relu())


@convolution(parts=lambda w, h: {"kernel": matrix(h, 1, 3, 3)})
def functional_depthwise(m, x):
    y = m.up(x)
    return m.down(F.conv2d(y, m.kernel, padding=1, groups=y.shape[1]))


@convolution(parts=lambda w, h: {"kernel": matrix(h, 1, 3, 3)})
def functional_depthwise_attribute(m, x):
    return m.down(F.conv2d(m.up(x), m.kernel, padding=1, groups=m.hidden))


@convolution(parts=lambda w, h: {"squeeze": nn.Conv2d(h, 3, 1), "excite": nn.Conv2d(3, h, 1)})
def squeezed(m, x):
    y = m.up(x).relu()
    return m.down(y * m.excite(m.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid())


@convolution(parts=lambda w, h: {"squeeze": nn.Linear(h, 3), "excite": nn.Linear(3, h)})
def squeezed_linear(m, x):
    y = m.up(x).relu()
    B, C = y.shape[:2]
    s = m.excite(m.squeeze(F.adaptive_avg_pool2d(y, 1).view(B, C)).relu()).sigmoid()
    return m.down(y * s.view(B, C, 1, 1))


@convolution(parts=lambda w, h: {"attend": nn.Conv1d(1, 1, 3, padding=1)}, removable=False)
def efficient_channel_attention(m, x):
    y = m.up(x).relu()
    s = m.attend(y.mean((2, 3)).unsqueeze(1)).sigmoid()
    return m.down(y * s.transpose(1, 2).unsqueeze(-1))


@convolution(2, 2, removable=None)
def shuffle_written(m, x):
    y = m.up(x).relu()
    B, C, H, W = y.shape
    return m.down(y.view(B, 2, C // 2, H, W).transpose(1, 2).reshape(B, C, H, W))


@convolution(
    2,
    2,
    parts=lambda w, h: {"shuffle": nn.ChannelShuffle(2)},
    removable=None,
)
def shuffle_module(m, x):
    return m.down(m.shuffle(m.up(x).relu()))


@convolution(4, parts=lambda w, h: {"shuffle": nn.PixelShuffle(2)}, removable=None)
def pixel_shuffled(m, x):
    return m.down(F.avg_pool2d(m.shuffle(m.up(x)).relu(), 2))


@convolution(down=4, removable=None)
def pixel_unshuffled(m, x):
    return F.interpolate(m.down(F.pixel_unshuffle(m.up(x).relu(), 2)), scale_factor=2)


@convolution(down=2, parts=lambda w, h: {"other": nn.Conv2d(h, h, 3, padding=1)})
def dense_block(m, x):
    y = m.up(x).relu()
    return m.down(torch.cat((y, m.other(y).relu()), 1))


@convolution(2, 2, parts=lambda w, h: {"other": nn.Conv2d(h, h, 3, padding=1)}, removable=None)
def cross_stage(m, x):
    a, b = m.up(x).relu().chunk(2, 1)
    return m.down(torch.cat((a, m.other(b).relu()), 1))


@convolution(2, 3, parts=lambda w, h: {"other": nn.Conv2d(h, h, 3, padding=1)}, removable=None)
def c2f(m, x):
    y = list(m.up(x).relu().split((m.hidden, m.hidden), 1))
    y.append(m.other(y[-1]).relu())
    return m.down(torch.cat(y, 1))


@convolution(2)
def conv_glu(m, x):
    a, b = m.up(x).chunk(2, 1)
    return m.down(a * b.sigmoid())


@convolution(2, parts=lambda w, h: {"other": nn.Conv2d(h, w, 1)}, removable=None)
def conv_two_halves(m, x):
    y = m.up(x).relu()
    half = y.shape[1] // 2
    return m.down(y[:, :half]) + m.other(y[:, half:])


@convolution(
    parts=lambda w, h: {"down": nn.Conv2d(h // 3, w, 1), "other": nn.Conv2d(h - h // 3, w, 1)},
    removable=None,
)
def conv_uneven_parts(m, x):
    y = m.up(x).relu()
    cut = y.shape[1] // 3
    return m.down(y[:, :cut]) + m.other(y[:, cut:])


@convolution(
    parts=lambda w, h: {"partial": nn.Conv2d(h // 2, h // 2, 3, padding=1)}, removable=None
)
def partial_convolution(m, x):
    a, b = m.up(x).split([m.hidden // 2, m.hidden - m.hidden // 2], 1)
    return m.down(torch.cat((m.partial(a), b), 1).relu())


@convolution(parts=lambda w, h: {"norm": nn.GroupNorm(2 if h % 2 == 0 else 1, h)}, removable=None)
def conv_group_norm(m, x):
    return m.down(m.norm(m.up(x)).relu())


@convolution(parts=lambda w, h: {"norm": nn.InstanceNorm2d(h, affine=True)})
def conv_instance_norm(m, x):
    return m.down(m.norm(m.up(x)).relu())


@convolution(parts=lambda w, h: {"norm": nn.LayerNorm(h)}, removable=False)
def conv_layer_norm(m, x):
    return m.down(m.norm(m.up(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).relu())


@convolution(parts=lambda w, h: {"up": nn.Linear(w, h), "down": nn.Linear(h, w)})
def channels_last(m, x):
    return m.down(F.gelu(m.up(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


@convolution(removable=False)
def conv_softmax(m, x):
    return m.down(m.up(x).softmax(1))


@convolution(removable=False)
def conv_mean(m, x):
    y = m.up(x).relu()
    return m.down(y * y.mean(1, keepdim=True).sigmoid())


@convolution(removable=None)
def conv_roll(m, x):
    return m.down(m.up(x).relu().roll(1, 1))


@convolution(removable=None)
def conv_flip(m, x):
    return m.down(m.up(x).relu().flip(1))


@convolution(removable=False)
def conv_over_size(m, x):
    y = m.up(x).relu()
    return m.down(y / y.size(1))


@convolution(removable=True)
def conv_view(m, x):
    B, _, H, W = x.shape
    y = m.up(x).relu().flatten(2).tanh()
    return m.down(y.view(B, -1, H, W))


@convolution(removable=None)
def conv_view_attribute(m, x):
    B, _, H, W = x.shape
    y = m.up(x).relu().flatten(2).tanh()
    return m.down(y.view(B, m.hidden, H, W))


@convolution(parts=lambda w, h: {"down": nn.ConvTranspose2d(h, w, 2, 2)})
def transposed(m, x):
    return m.down(F.max_pool2d(m.up(x).relu(), 2))


@convolution()
def upsampled(m, x):
    return m.down(F.interpolate(F.max_pool2d(m.up(x).relu(), 2), scale_factor=2, mode="bilinear"))


@convolution(
    parts=lambda w, h: {"up": nn.Conv2d(w, h, 3, padding=1), "after": nn.Conv2d(h, h, 3, padding=1)}
)
def inner_residual(m, x):
    y = m.up(x).relu()
    return m.down(y + m.after(y).relu())


@convolution(
    parts=lambda w, h: {
        "up": nn.Conv2d(w, h, 1),
        "wide": nn.Conv2d(h, h + 4, 3, padding=1),
        "down": nn.Conv2d(h + 4, w, 1),
    },
    removable=None,
)
def option_a(m, x):
    y = m.up(x).relu()
    return m.down(m.wide(y) + F.pad(y, (0, 0, 0, 0, 2, 2)))


@convolution(
    parts=lambda w, h: {
        "up": nn.Conv2d(w, h, 1),
        "wide": nn.Conv2d(h, 2 * h, 3, padding=1),
        "down": nn.Conv2d(2 * h, w, 1),
    },
    removable=None,
)
def option_a_own_size(m, x):
    y = m.up(x).relu()
    z = m.wide(y)
    missing = z.shape[1] - y.shape[1]
    return m.down(z + F.pad(y, (0, 0, 0, 0, 0, missing)))


@convolution(parts=lambda w, h: {"gamma": nn.Parameter(torch.ones(1, h, 1, 1))})
def layer_scaled(m, x):
    return m.down((m.up(x) * m.gamma).relu())


@convolution(parts=lambda w, h: {"other": nn.Conv2d(w, h, 3, padding=1)})
def conv_branches(m, x):
    return m.down((m.up(x) + m.other(x)).relu())


@convolution(
    parts=lambda w, h: {"theta": nn.Conv2d(w, h, 1), "phi": nn.Conv2d(w, h, 1)}, removable=None
)
def non_local(m, x):
    B, _, H, W = x.shape
    q, k, v = (f(x).flatten(2) for f in (m.theta, m.phi, m.up))
    y = v @ (q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2)
    return m.down(y.view(B, -1, H, W))


@convolution(
    parts=lambda w, h: {"theta": nn.Conv2d(w, h, 1), "phi": nn.Conv2d(w, h, 1)}, removable=False
)
def channel_attention(m, x):
    B, _, H, W = x.shape
    q, k, v = (f(x).flatten(2) for f in (m.theta, m.phi, m.up))
    y = (q @ k.transpose(1, 2)).softmax(-1) @ v
    return m.down(y.view(B, -1, H, W))
