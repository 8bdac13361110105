"""What each operator does to populations: the slices they own, spelled out, and exactness."""

# ruff: noqa: E501 - one network a line reads best

import pytest
import torch
import torch.nn.functional as F
from exactness import Net, assert_exact, found, offered, owned, parameter, reasons
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from natsel.communities.surgery.surgery import remove

L = nn.Linear
VEC = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
SEQ = torch.randn(2, 3, 5)
IMG = torch.randn(2, 2, 6, 6)
VOL = torch.randn(1, 2, 4, 4, 4)
TOK = torch.tensor([[1, 2, 0, 4], [3, 3, 1, 0]])
ONE = [[0], [1], [2], [3]]
TWO = [[0, 1], [2, 3], [4, 5], [6, 7]]
FAR = [[0, 4], [1, 5], [2, 6], [3, 7]]
LINES = {"a.weight:0": ONE, "a.bias:0": ONE}
READ = {"b.weight:1": ONE}


def two(a, b, between=lambda m, y: y, **parts):
    return Net(lambda m, x: m.b(between(m, m.a(x))), a=a, b=b, **parts)


def dense(between=lambda m, y: y, out=4, **parts):
    return two(L(3, 4), L(out, 2), between, **parts)


def conv(between=lambda m, y: y, out=4, **parts):
    return two(nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(out, 2, 1), between, **parts)


def tokens(between, out=4, **parts):
    return two(L(5, 4), L(out, 2), between, **parts)


def _squeeze_excite(m, y):
    return y * torch.sigmoid(m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))))


def _pair(m, x):
    return m.b(torch.cat([m.a(x), m.c(x)], 1))


def _glu(m, y):
    first, second = y.chunk(2, -1)
    return first * F.silu(second)


def _unbound(m, y):
    first, second = y.unflatten(-1, (2, -1)).unbind(-2)
    return first * second


CASES = {
    "linear": (dense(), VEC, {"a": LINES | READ}),
    "linear without bias": (
        two(L(3, 4, bias=False), L(4, 2)), VEC, {"a": {"a.weight:0": ONE} | READ}),
    "x @ W + b": (
        Net(lambda m, x: torch.tanh(x @ m.v + m.c) @ m.w, v=parameter(3, 4), c=parameter(4), w=parameter(4, 2)),
        VEC, {"v": {"v:1": ONE, "c:0": ONE, "w:0": ONE}}),
    "addmm": (
        Net(lambda m, x: torch.addmm(m.c, x, m.v).relu() @ m.w, v=parameter(3, 4), c=parameter(4), w=parameter(4, 2)),
        VEC, {"v": {"v:1": ONE, "c:0": ONE, "w:0": ONE}}),
    "W @ x": (
        Net(lambda m, x: m.w @ torch.tanh(m.v @ x), v=parameter(4, 3), w=parameter(2, 4)),
        SEQ, {"v": {"v:0": ONE, "w:1": ONE}}),
    "conv1d": (two(nn.Conv1d(3, 4, 3), nn.Conv1d(4, 2, 2)), SEQ, {"a": LINES | READ}),
    "conv2d": (conv(), IMG, {"a": LINES | READ}),
    "conv3d": (two(nn.Conv3d(2, 4, 2), nn.Conv3d(4, 2, 2)), VOL, {"a": LINES | READ}),
    "depthwise": (
        conv(lambda m, y: m.d(y), d=nn.Conv2d(4, 4, 3, groups=4)), IMG,
        {"a": LINES | READ | {"d.weight:0": ONE, "d.bias:0": ONE}}),
    "depthwise with a multiplier": (
        conv(lambda m, y: m.d(y), out=8, d=nn.Conv2d(4, 8, 3, groups=4)), IMG,
        {"a": LINES | {"d.weight:0": TWO, "d.bias:0": TWO, "b.weight:1": TWO}}),
    "grouped": (
        conv(lambda m, y: m.d(y), d=nn.Conv2d(4, 4, 3, groups=2)), IMG,
        {"a": {"a.weight:0": [[0, 2], [1, 3]], "a.bias:0": [[0, 2], [1, 3]], "d.weight:1": [[0], [1]]},
         "d": {"d.weight:0": [[0, 2], [1, 3]], "d.bias:0": [[0, 2], [1, 3]], "b.weight:1": [[0, 2], [1, 3]]}}),
    "transposed": (
        two(nn.ConvTranspose2d(2, 4, 2, stride=2), nn.ConvTranspose2d(4, 2, 3)), IMG,
        {"a": {"a.weight:1": ONE, "a.bias:0": ONE, "b.weight:0": ONE}}),
    "batch norm": (
        conv(lambda m, y: F.relu(m.n(y)), n=nn.BatchNorm2d(4)), IMG,
        {"a": LINES | READ | {f"n.{t}:0": ONE for t in ("weight", "bias", "running_mean", "running_var")}}),
    "batch norm of batches": (
        conv(lambda m, y: m.n(y), n=nn.BatchNorm2d(4, affine=False, track_running_stats=False)), IMG,
        {"a": LINES | READ}),
    "instance norm": (
        conv(lambda m, y: m.n(y), n=nn.InstanceNorm2d(4, affine=True)), IMG,
        {"a": LINES | READ | {"n.weight:0": ONE, "n.bias:0": ONE}}),
    "group norm": (
        conv(lambda m, y: m.n(y), n=nn.GroupNorm(2, 4)), IMG,
        {"a": {k: [[0, 1], [2, 3]] for k in [*LINES, *READ, "n.weight:0", "n.bias:0"]}}),
    "layer norm over tokens": (
        tokens(lambda m, y: m.n(y.transpose(1, 2)).transpose(1, 2), n=nn.LayerNorm(3)), SEQ,
        {"a": LINES | READ}),
    "prelu": (conv(lambda m, y: m.n(y), n=nn.PReLU(4)), IMG, {"a": LINES | READ | {"n.weight:0": ONE}}),
    "prelu with one slope": (conv(lambda m, y: m.n(y), n=nn.PReLU()), IMG, {"a": LINES | READ}),
    "embedding": (
        Net(lambda m, x: m.b(m.a(x).relu()), a=nn.Embedding(5, 4), b=L(4, 2)), TOK,
        {"a": {"a.weight:1": ONE} | READ}),
    "tied embedding": (
        Net(lambda m, x: F.linear(m.a(x), m.a.weight), a=nn.Embedding(5, 4)), TOK,
        {"a": {"a.weight:1": ONE}}),
    "pooling": (
        conv(lambda m, y: F.avg_pool2d(F.max_pool2d(y, 2), 2) + F.adaptive_avg_pool2d(y, 1)
             + F.adaptive_max_pool2d(y, 1)), IMG, {"a": LINES | READ}),
    "upsample": (
        conv(lambda m, y: F.interpolate(y, scale_factor=2)
             + F.interpolate(y, size=(12, 12), mode="bilinear")), IMG, {"a": LINES | READ}),
    "flatten": (
        two(nn.Conv2d(2, 4, 3), L(64, 2), lambda m, y: y.flatten(1)), IMG,
        {"a": LINES | {"b.weight:1": torch.arange(64).view(4, 16).tolist()}}),
    "view and permute": (
        two(nn.Conv2d(2, 4, 6), L(4, 2), lambda m, y: y.view(2, -1).t().permute(1, 0)), IMG,
        {"a": LINES | READ}),
    "chunk": (
        two(L(3, 8), L(4, 2), lambda m, y: _glu(m, y)), VEC,
        {"a": {"a.weight:0": FAR, "a.bias:0": FAR} | READ}),
    "unbind": (
        two(L(3, 8), L(4, 2), lambda m, y: _unbound(m, y)), VEC,
        {"a": {"a.weight:0": FAR, "a.bias:0": FAR} | READ}),
    "glu": (
        two(L(3, 8), L(4, 2), lambda m, y: F.glu(y)), VEC,
        {"a": {"a.weight:0": FAR, "a.bias:0": FAR} | READ}),
    "cat": (
        Net(_pair, a=L(3, 4), c=L(3, 2), b=L(6, 2)), VEC,
        {"a": LINES | READ,
         "c": {"c.weight:0": [[0], [1]], "c.bias:0": [[0], [1]], "b.weight:1": [[4], [5]]}}),
    "cat with itself": (
        dense(lambda m, y: torch.cat([y, -y], 1), out=8), VEC, {"a": LINES | {"b.weight:1": FAR}}),
    "stack": (
        dense(lambda m, y: torch.stack([y, 2 * y], 2).flatten(1), out=8), VEC,
        {"a": LINES | {"b.weight:1": TWO}}),
    "pad": (conv(lambda m, y: F.pad(y, (1, 2, 0, 1))), IMG, {"a": LINES | READ}),
    "pad with ones": (conv(lambda m, y: F.pad(y, (1, 2), value=1.0)), IMG, {"a": LINES | READ}),
    "pad by reflection": (conv(lambda m, y: F.pad(y, (1, 1, 1, 1), mode="reflect")), IMG, {"a": LINES | READ}),
    "pad channels": (
        conv(lambda m, y: F.pad(y, (0, 0, 0, 0, 1, 2)), out=7), IMG,
        {"a": LINES | {"b.weight:1": [[1], [2], [3], [4]]}}),
    "residual": (
        dense(lambda m, y: y + m.d(m.c(y)), c=L(4, 3), d=L(3, 4)), VEC,
        {"a": LINES | READ | {"c.weight:1": ONE, "d.weight:0": ONE, "d.bias:0": ONE},
         "c": {"c.weight:0": [[0], [1], [2]], "c.bias:0": [[0], [1], [2]], "d.weight:1": [[0], [1], [2]]}}),
    "numbers": (dense(lambda m, y: (1 - 2 * y) / 3 + y**2 - y.clamp(0, 1)), VEC, {"a": LINES | READ}),
    "a scale of each": (dense(lambda m, y: y * m.s, s=parameter(4)), VEC, {"a": LINES | READ | {"s:0": ONE}}),
    "a scale of all": (dense(lambda m, y: y * m.s, s=parameter(1)), VEC, {"a": LINES | READ}),
    "a scale of each channel": (conv(lambda m, y: y * m.s, s=parameter(4, 1, 1)), IMG, {"a": LINES | READ | {"s:0": ONE}}),
    "a scale of each place": (conv(lambda m, y: y * m.s, s=parameter(6, 6)), IMG, {"a": LINES | READ}),
    "a mask of places": (
        conv(lambda m, y: y.masked_fill(torch.ones(6, 6, dtype=torch.bool).tril(), 0.0)), IMG, {"a": LINES | READ}),
    "a mask from itself": (dense(lambda m, y: torch.where(y > 0, y, 0.1 * y)), VEC, {"a": LINES | READ}),
    "squeeze-excitation": (
        conv(_squeeze_excite, down=nn.Conv2d(4, 3, 1), up=nn.Conv2d(3, 4, 1)), IMG,
        {"a": LINES | READ | {"down.weight:1": ONE, "up.weight:0": ONE, "up.bias:0": ONE},
         "down": {"down.weight:0": [[0], [1], [2]], "down.bias:0": [[0], [1], [2]],
                  "up.weight:1": [[0], [1], [2]]}}),
    "mean over tokens": (tokens(lambda m, y: y.mean(1)), SEQ, {"a": LINES | READ}),
    "max over tokens": (tokens(lambda m, y: y.max(1, keepdim=True)[0] + y.amax(1, keepdim=True)), SEQ, {"a": LINES | READ}),
    "softmax over tokens": (tokens(lambda m, y: y.softmax(1)), SEQ, {"a": LINES | READ}),
    "class token and positions": (
        tokens(lambda m, y: (torch.cat([m.t.expand(y.shape[0], -1, -1), y], 1) + m.p).mean(1) * m.s,
               t=parameter(1, 1, 4), p=parameter(1, 4, 4), s=parameter(4)), SEQ,
        {"a": LINES | READ | {"t:2": ONE, "p:2": ONE, "s:0": ONE}}),
    "a table of places": (
        tokens(lambda m, y: y + m.t[torch.tensor([2, 0, 2])], t=parameter(3, 4)), SEQ,
        {"a": LINES | READ | {"t:1": ONE}}),
    "mixing of tokens": (
        tokens(lambda m, y: y + torch.ones(3, 3, dtype=y.dtype).tril() @ y), SEQ, {"a": LINES | READ}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_slices_and_exactness(name):
    model, x, expected = CASES[name]
    communities = found(model, x)
    assert {c: owned(communities, c) for c in communities} == expected, reasons(communities)
    assert {c.kind for c in communities.values()} == {
        "filter" if model.get_parameter(next(iter(owned(communities, c.name))).split(":")[0]).dim() > 2
        else "neuron" for c in communities.values()
    }  # fmt: skip
    assert_exact(communities, num_random=3)


def test_a_buffer_of_each_goes_along():
    model = dense(lambda m, y: (y - m.shift) * m.factor)
    model.register_buffer("shift", torch.rand(4), persistent=False)
    model.register_buffer("factor", torch.tensor(2.0))
    communities = found(model, VEC)
    assert owned(communities, "a") == LINES | READ | {"shift:0": ONE}
    assert communities["a"].cost.parameters == 3 + 1 + 2
    assert_exact(communities)
    half = {"a": torch.tensor([True, False, True, False])}
    small = remove(model, communities.values(), half)
    assert small.shift.tolist() == model.shift[[0, 2]].tolist()
    assert "shift" not in small.state_dict()


def heads(m, x, attend):
    B, T, _ = x.shape
    q, k, v = (f(x).view(B, T, -1, 2).transpose(1, 2) for f in (m.q, m.k, m.v))
    return m.o(attend(q, k, v).transpose(1, 2).reshape(B, T, -1))


def _written_out(q, k, v):
    return (q @ k.transpose(-2, -1) / 2**0.5).softmax(-1) @ v


def _repeated(q, k, v):
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def _masked(q, k, v):
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


ATTENTION = {
    "fused": (3, 3, F.scaled_dot_product_attention),
    "causal": (3, 3, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
    "masked": (3, 3, _masked),
    "written out": (3, 3, _written_out),
    "grouped queries": (
        6, 3, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)),
    "repeated keys": (6, 3, _repeated),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTENTION)
def test_heads(name):
    num_query, num_key, attend = ATTENTION[name]
    model = Net(
        lambda m, x: heads(m, x, attend),
        q=L(5, 2 * num_query), k=L(5, 2 * num_key), v=L(5, 2 * num_key), o=L(2 * num_query, 5),
    )  # fmt: skip
    communities = found(model, SEQ)
    (community,) = communities.values()
    assert (community.kind, community.size) == ("head", 3)
    wide, narrow = (torch.arange(2 * n).view(3, -1).tolist() for n in (num_query, num_key))
    slices = {
        f"{t}.{p}:0": i
        for t, i in zip("qkv", (wide, narrow, narrow), strict=True)
        for p in ("weight", "bias")
    }
    assert owned(communities, community.name) == slices | {"o.weight:1": wide}
    assert_exact(communities)


@pytest.mark.parametrize("per_head", ["buffer", "parameter"])
def test_a_bias_of_each_head_goes_along(per_head):
    model = Net(
        lambda m, x: heads(
            m, x, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=m.bias)
        ),
        q=L(5, 6), k=L(5, 6), v=L(5, 6), o=L(6, 5),
    )  # fmt: skip
    if per_head == "buffer":
        model.register_buffer("bias", torch.randn(1, 3, 3, 3))
    else:
        model.bias = parameter(1, 3, 3, 3)
    communities = found(model, SEQ)
    (community,) = communities.values()
    assert owned(communities, community.name)["bias:1"] == [[0], [1], [2]]
    assert_exact(communities)


class Held(nn.Module):
    """Attention whose forward uses numbers of the module."""

    def __init__(self, num_heads=4, num_groups=2, head_dim=4):
        super().__init__()
        self.num_heads, self.num_groups, self.head_dim = num_heads, num_groups, head_dim
        self.inner = num_heads * head_dim
        self.q, self.o = L(5, self.inner), L(self.inner, 5)
        self.kv = L(5, 2 * num_groups * head_dim)

    def forward(self, x):
        B, T, _ = x.shape
        q = self.q(x).view(B, T, self.num_heads, self.head_dim).transpose(1, 2)
        k, v = self.kv(x).view(B, T, 2, self.num_groups, self.head_dim).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.o(y.transpose(1, 2).reshape(B, T, self.inner))


@pytest.mark.parametrize("sizes", [(4, 2, 4), (4, 4, 4), (6, 3, 2), (4, 4, 3)])
def test_numbers_that_hold_sizes_follow_and_head_dim_does_not(sizes):
    communities = found(Held(*sizes), SEQ)
    (community,) = communities.values()
    bound = {r.attribute: r.per_population for r in community.rebindings}
    num_heads, num_groups, head_dim = sizes
    assert community.size == num_groups
    assert bound == {
        "num_heads": num_heads // num_groups,
        "num_groups": 1,
        "inner": num_heads // num_groups * head_dim,
    }
    assert_exact(communities)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=6, max_size=6).filter(any))
def test_what_remains_is_what_was_kept(alive):
    communities = WIDE
    kept = torch.tensor(alive)
    small = remove(communities.model, communities.values(), {"a": kept})
    assert torch.equal(small.a.weight, communities.model.a.weight[kept])
    assert torch.equal(small.b.weight, communities.model.b.weight[:, kept])
    assert (small.a.out_features, small.b.in_features) == (sum(alive), sum(alive))
    assert offered(communities) == {"a": ("neuron", 6)}
    x = torch.randn(2, 3, dtype=torch.float64)
    expected = F.linear(communities.model.a(x)[:, kept], small.b.weight, small.b.bias)
    assert torch.allclose(small(x), expected, atol=1e-12)


WIDE = found(two(L(3, 6), L(6, 2)), VEC)
