"""Networks on which a peer was silently wrong: each is exact, or refused with a reason."""

# ruff: noqa: E501 - one network a line reads best

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from exactness import Net, assert_exact, found, offered, owned, parameter, reasons
from torch import nn

from natsel.communities.proof.broken import why_broken

L = nn.Linear
VEC = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
IMG = torch.randn(2, 3, 6, 6)


def mlp(between, hidden=6, out=None, **parts):
    """Linear, something between, Linear."""
    out = hidden if out is None else out
    return Net(lambda m, x: m.b(between(m, m.a(x))), a=L(5, hidden), b=L(out, 3), **parts)


def conv(between, hidden=6, out=None, **parts):
    out = hidden if out is None else out
    return Net(
        lambda m, x: m.b(between(m, m.a(x))),
        a=nn.Conv2d(3, hidden, 3),
        b=nn.Conv2d(out, 2, 3),
        **parts,
    )


def _iadd(m, y):
    y += 1
    return y.relu_()


def _iadd_itself(m, y):
    z = y * 2
    z += y
    return z


def _write_zero(m, y):
    y[:, :3] = 0
    return y


def _write_places(m, y):
    y[:, :, :1] = 0
    y[..., 1:] *= 2
    return y


def _buffer_filled(m, y):
    z = torch.zeros_like(y)
    z[:, :] = y
    return z


def _write_other(m, y):
    z = torch.zeros(y.shape[0], 6, dtype=y.dtype)
    z[:, 1:4] = y[:, :3]
    return z


def _channels_last(m, y):
    return y.permute(0, 2, 3, 1).flatten(1)


def _shuffle(m, y):
    b, c, h, w = y.shape
    return y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


EXACT = {
    "flip": (mlp(lambda m, y: y.flip(1)), VEC, {"a": 6}),
    "flip of one half": (mlp(lambda m, y: torch.cat([y, y.flip(1)], 1), out=12), VEC, {"a": 6}),
    "in place": (mlp(_iadd), VEC, {"a": 6}),
    "in place, itself": (mlp(_iadd_itself), VEC, {"a": 6}),
    "write zeros into a slice": (mlp(_write_zero), VEC, {"a": 3}),
    "write into places": (conv(_write_places), IMG, {"a": 6}),
    "write into a new tensor": (mlp(_buffer_filled), VEC, {"a": 6}),
    "channels-last flatten": (
        Net(lambda m, x: m.b(_channels_last(m, m.a(x))), a=nn.Conv2d(3, 6, 3), b=L(96, 3)),
        IMG,
        {"a": 6},
    ),
    "grouped, different local places": (conv(lambda m, y: m.g(y), g=nn.Conv2d(6, 6, 1, groups=2)), IMG, {"a": 3, "g": 3}),
    "called twice": (mlp(lambda m, y: m.h(torch.tanh(m.h(y))), h=L(6, 6)), VEC, {"a": 6}),
    "dropout": (mlp(lambda m, y: m.d(F.dropout(y, training=False)), d=nn.Dropout()), VEC, {"a": 6}),
    "one population more": (mlp(lambda m, y: y - y.detach().mean(0)), VEC, {"a": 6}),
    "outer product with data": (
        Net(lambda m, x: m.b((m.a(x)[:, None, :] * x[:, :, None]).sum(1)), a=L(5, 6), b=L(6, 3)),
        VEC,
        {"a": 6},
    ),
    "spatial gate": (
        conv(lambda m, y: y * torch.sigmoid(m.s(y)), s=nn.Conv2d(6, 1, 1)), IMG, {"a": 6}),
    "a frozen maker": (mlp(lambda m, y: y.relu()).requires_grad_(False), VEC, {"a": 6}),
    "tied autoencoder": (
        Net(lambda m, x: F.linear(torch.tanh(m.a(x)), m.a.weight.t()), a=L(5, 6)), VEC, {"a": 6}),
    "a size read from the shape": (conv(lambda m, y: y.view(y.shape[0], y.size(1), -1).view(*y.shape)), IMG, {"a": 6}),
    "a size held by the module": (
        conv(lambda m, y: y.view(-1, m.width, 4, 4), width=6), IMG, {"a": 6}),
    "a sum over places": (
        Net(lambda m, x: m.b(m.a(x).sum((2, 3))), a=nn.Conv2d(3, 6, 3), b=L(6, 3)), IMG, {"a": 6}),
    "an einsum-free bilinear map": (mlp(lambda m, y: y * m.c(y), c=L(6, 6)), VEC, {"a": 6}),
    "einsum": (
        mlp(lambda m, y: torch.einsum("bi,ij->bj", y, m.w), w=parameter(6, 6)), VEC, {"a": 6, "w": 6}),
    "outer product": (
        Net(lambda m, x: m.c((m.a(x)[:, :, None] * m.b(x)[:, None, :]).flatten(1)),
            a=L(5, 4), b=L(5, 3), c=L(12, 2)), VEC, {"a": 4}),
    "halves": (
        Net(lambda m, x: m.b(m.a(x).chunk(2, 1)[0]) + m.c(m.a(x).chunk(2, 1)[1]),
            a=L(5, 8), b=L(4, 3), c=L(4, 3)), VEC, {"a": 4}),
    "ones minus": (mlp(lambda m, y: torch.ones_like(y) - y), VEC, {"a": 6}),
    "normalised by groups of one": (conv(lambda m, y: m.n(y), n=nn.GroupNorm(6, 6)), IMG, {"a": 6}),
    "nn.ChannelShuffle": (conv(lambda m, y: m.s(y), s=nn.ChannelShuffle(2)), IMG, {"a": 3}),
    "shuffled by three": (conv(lambda m, y: m.s(y), s=nn.ChannelShuffle(3)), IMG, {"a": 2}),
    "shuffled twice": (conv(lambda m, y: m.t(m.s(y)), 12, s=nn.ChannelShuffle(2), t=nn.ChannelShuffle(2)), IMG, {"a": 3}),
    "shuffled between groups": (
        conv(lambda m, y: m.h(m.s(m.g(y))), 8, g=nn.Conv2d(8, 8, 1, groups=2), s=nn.ChannelShuffle(2),
             h=nn.Conv2d(8, 8, 1, groups=2)), IMG, {"a": 4, "g": 2, "h": 4}),
    "normalised by groups of two": (conv(lambda m, y: m.n(y), n=nn.GroupNorm(3, 6)), IMG, {"a": 3}),
}  # fmt: skip

REFUSED = {
    "roll": (mlp(lambda m, y: y.roll(1, 1)), VEC, "change their order"),
    "channel shuffle": (conv(_shuffle), IMG, "change their order"),
    "a shuffle that mixes": (conv(lambda m, y: m.s(y) + y, s=nn.ChannelShuffle(2)), IMG, "a: all of it stands or falls"),
    "division by size": (mlp(lambda m, y: y / y.size(1)), VEC, "removing is not masking"),
    "cumsum": (mlp(lambda m, y: y.cumsum(1)), VEC, "summed up with its neighbours"),
    "sort": (mlp(lambda m, y: y.sort(1)[0]), VEC, "no rule for aten.sort"),
    "argmax": (mlp(lambda m, y: y + y.argmax(1, keepdim=True)), VEC, "reduced together"),
    "softmax": (mlp(lambda m, y: y.softmax(1)), VEC, "softmax"),
    "mean": (mlp(lambda m, y: y - y.mean(1, keepdim=True)), VEC, "reduced together"),
    "LayerNorm": (mlp(lambda m, y: m.n(y), n=nn.LayerNorm(6)), VEC, "normalised together"),
    "RMSNorm": (mlp(lambda m, y: m.n(y), n=nn.RMSNorm(6)), VEC, "together"),
    "GroupNorm of all": (conv(lambda m, y: m.n(y), n=nn.GroupNorm(1, 6)), IMG, "normalised"),
    "normalize": (mlp(lambda m, y: F.normalize(y)), VEC, "reduced together"),
    "write one slice into another": (mlp(_write_other), VEC, "a: "),
    "literal view": (conv(lambda m, y: y.view(-1, 6, 4, 4)), IMG,
        r"does not run: forward asks for the fixed shape [-1, 6, 4, 4] at test_traps.py:"),
    "literal flatten": (
        Net(lambda m, x: m.b(m.a(x).view(-1, 96)), a=nn.Conv2d(3, 6, 3), b=L(96, 3)), IMG,
        "does not run: forward asks for the fixed shape [-1, 96] at test_traps.py:"),
    "literal parts": (
        Net(lambda m, x: m.b(m.a(x).split([4, 2], 1)[0]), a=L(5, 6), b=L(4, 3)), VEC,
        "does not run: forward asks for parts of the fixed sizes [4, 2] at test_traps.py:"),
    "literal expand": (
        mlp(lambda m, y: y[:, None].expand(2, 3, 6).sum(1)), VEC,
        "does not run: forward asks for the fixed shape [2, 3, 6] at test_traps.py:"),
    "plain data": (mlp(lambda m, y: y + torch.arange(6.0, dtype=y.dtype)), VEC, "meets other data"),
    "the input": (Net(lambda m, x: m.b(m.a(x) + x), a=L(5, 5), b=L(5, 3)), VEC, "meets other data"),
    "an index": (mlp(lambda m, y: y[:, torch.tensor([0, 2, 1, 4, 3, 5])]), VEC, "change their order"),
    "a list outside parameters": (mlp(lambda m, y: y * m.scales[0], scales=[torch.rand(6).double()]), VEC, "meets other data"),
    "random in evaluation": (mlp(lambda m, y: F.dropout(y, 0.5, True)), VEC, "two runs"),
    "a weight as data": (
        Net(lambda m, x: m.b(m.a(x)) + m.a.weight.sum(), a=L(5, 6), b=L(6, 3)), VEC, "as plain data"),
    "a recurrent network that projects": (
        Net(lambda m, x: m.b(m.a(x[:, None])[0]), a=nn.LSTM(5, 4, batch_first=True, proj_size=2), b=L(2, 3)), VEC, "a: no rule for aten.lstm"),
    "an image without a batch": (
        Net(lambda m, x: m.b(m.a(x[0])), a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 2, 3)), IMG, "a: no rule for aten.conv2d"),
    "topk": (mlp(lambda m, y: y.topk(6, 1)[0]), VEC, "no rule for aten.topk"),
    "a count of ones": (
        mlp(lambda m, y: y / torch.ones_like(y).sum(1, keepdim=True)), VEC, "removing is not masking"),
}  # fmt: skip


def assert_every_reason_says_something(communities):
    assert communities.refused
    for refusal in communities.refused:
        assert refusal.reason
        assert "unknown" not in refusal.reason


@pytest.mark.parametrize("name", EXACT)
def test_exact(name):
    model, x, expected = EXACT[name]
    communities = found(model, x)
    assert {c.name: c.size for c in communities.values()} == expected, reasons(communities)
    assert_every_reason_says_something(communities)
    assert_exact(communities)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    model, x, reason = REFUSED[name]
    communities = found(model, x)
    assert offered(communities) == {}
    assert_every_reason_says_something(communities)
    assert reason in reasons(communities)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda x: x.view(3, 4), "forward asks for the fixed shape [3, 4]"),
        (lambda x: x.unflatten(1, (2, 3)), "forward asks for the fixed shape [2, 3]"),
        (lambda x: x.expand(2, 6), "forward asks for the fixed shape [2, 6]"),
        (lambda x: x.split([2, 2], 1), "forward asks for parts of the fixed sizes [2, 2]"),
        (lambda x: x + torch.ones(6), "a size that was cut meets one that was not (The size of"),
        (
            lambda x: F.linear(x, torch.ones(3, 6)),
            "a size that was cut meets one that was not (mat1",
        ),
        (lambda x: F.layer_norm(x, (6,)), "a size that was cut meets one that was not (Given norm"),
        (lambda x: x[:, 7], "index 7 is out of bounds"),
    ],
)
def test_why_a_smaller_model_does_not_run_is_said_in_words(broken, words):
    with pytest.raises((RuntimeError, IndexError)) as told:
        broken(torch.zeros(2, 5))
    assert why_broken(told.value).startswith(words)
    assert " at test_traps.py:" in why_broken(told.value)


def test_a_shuffle_written_out_is_refused_once_with_its_remedy():
    refusals = found(conv(_shuffle), IMG).refused
    (refusal,) = [r for r in refusals if r.name == "a"]
    assert refusal.reason == "its populations change their order on the way (a roll, a shuffle)"
    assert "nn.ChannelShuffle" in refusal.remedy


def test_a_shuffle_has_no_other_populations_than_what_its_groups_lose_together():
    model = conv(lambda m, y: m.s(y), s=nn.ChannelShuffle(2))
    communities = found(model, IMG)
    ours = [[0, 3], [1, 4], [2, 5]]
    assert owned(communities, "a") == {
        "a.weight:0": ours,
        "a.bias:0": ours,
        "b.weight:1": [[0, 1], [2, 3], [4, 5]],
    }

    def is_exact(alive):
        read = F.channel_shuffle(alive[None, :, None, None], 2).reshape(-1)
        masked, small = copy.deepcopy(model), copy.deepcopy(model)
        masked.b.weight.data[:, ~read] = 0
        small.a.weight.data, small.a.bias.data = model.a.weight[alive], model.a.bias[alive]
        small.b.weight.data = model.b.weight[:, read]
        return torch.allclose(small(IMG.double()), masked(IMG.double()))

    def without(pairs):
        alive = torch.ones(6, dtype=torch.bool)
        alive[list(itertools.chain(*pairs))] = False
        return alive

    partitions = {
        tuple(sorted(tuple(sorted(order[i : i + 2])) for i in (0, 2, 4)))
        for order in itertools.permutations(range(6))
    }
    assert len(partitions) == 15
    exact = [
        pairs
        for pairs in partitions
        if all(is_exact(without(lost)) for n in (1, 2) for lost in itertools.combinations(pairs, n))
    ]
    assert exact == [tuple(map(tuple, ours))]
