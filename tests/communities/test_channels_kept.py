"""Channels that stay apart on their way: over tokens, in halves, step by step, in scans."""

import copy

import pytest
import torch
import torch.nn.functional as F
from exactness import Net, assert_exact, found, offered, owned, parameter, reasons
from torch import nn

import natsel

L = nn.Linear
SEQ, IMG = torch.randn(2, 3, 5), torch.randn(2, 2, 6, 6)
ONE = [[0], [1], [2], [3]]


def tokens(between, **parts):
    return Net(lambda m, x: m.b(between(m, m.a(x))), a=L(5, 4), b=L(4, 2), **parts)


OVER_TOKENS = {
    "a linear": tokens(lambda m, y: m.t(y.transpose(1, 2)).transpose(1, 2), t=L(3, 6)),
    "two of them": tokens(
        lambda m, y: y + m.u(m.t(y.transpose(1, 2)).relu()).transpose(1, 2), t=L(3, 7), u=L(7, 3)
    ),
    "a weight first": tokens(lambda m, y: m.w @ y, w=parameter(6, 3)),
    "an einsum": tokens(lambda m, y: torch.einsum("bsc,st->btc", y, m.w), w=parameter(3, 6)),
    "gated by places": tokens(
        lambda m, y: y * m.t(y.transpose(1, 2)).transpose(1, 2).sigmoid(), t=L(3, 3)
    ),
}


@pytest.mark.parametrize("name", OVER_TOKENS)
def test_a_layer_over_tokens_keeps_channels(name):
    communities = found(OVER_TOKENS[name], SEQ)
    assert owned(communities, "a") == {"a.weight:0": ONE, "a.bias:0": ONE, "b.weight:1": ONE}
    assert_exact(communities, num_random=2)
    half = {"a": torch.tensor([True, False, True, False])}
    small = natsel.extract(communities.model, natsel.Survivors(half, communities))
    assert natsel.discover(small, (SEQ.double(),), proof=False).macs == communities.price(half).macs


def test_what_mixes_places_is_told():
    communities = found(OVER_TOKENS["a linear"], SEQ)
    assert "t: it mixes places of each channel" in reasons(communities)


def test_where_channels_cannot_go_what_mixes_tokens_has_neurons():
    def forward(m, x):
        return x + m.u(m.t(m.n(x).transpose(1, 2)).relu()).transpose(1, 2)

    model = Net(forward, n=nn.LayerNorm(5), t=L(3, 7), u=L(7, 3))
    communities = found(model, SEQ)
    assert offered(communities) == {"t": ("neuron", 7)}
    assert_exact(communities, num_random=2)


def _c2f(m, x):
    parts = list(m.a(x).chunk(2, 1))
    parts.append(m.inner(parts[-1]))
    return m.b(torch.cat(parts, 1))


def _shuffled(m, x):
    kept, other = m.a(x).chunk(2, 1)
    return m.b(F.channel_shuffle(torch.cat([kept, m.inner(other)], 1), 2))


@pytest.mark.parametrize(("forward", "width"), [(_c2f, 9), (_shuffled, 6)])
def test_halves_go_place_by_place(forward, width):
    last = nn.Conv2d(3, 3, 3, padding=1)
    model = Net(forward, a=nn.Conv2d(2, 6, 1), inner=last, b=nn.Conv2d(width, 2, 1))
    communities = found(model, IMG)
    assert owned(communities, "a")["a.weight:0"] == [[0, 3], [1, 4], [2, 5]]
    assert_exact(communities, num_random=2)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_units_of_a_cell_go(kind, gates):
    def forward(m, x):
        state = None
        for step in range(3):
            state = m.cell(m.up(x[:, step]), state)
        return m.down(state[0] if isinstance(state, tuple) else state)

    model = Net(forward, up=L(5, 4), cell=kind(4, 6), down=L(6, 2))
    communities = found(model, SEQ)
    assert {name: c.size for name, c in communities.items()} == {"up": 4, "cell": 6}
    rows = [[j + 6 * g for g in range(gates)] for j in range(6)]
    assert owned(communities, "cell")["cell.weight_hh:0"] == rows
    assert_exact(communities, num_random=2)


def test_the_channels_of_a_scan_go_and_its_states_stay():
    def forward(m, x):
        y = m.a(x)
        step, (into, out) = F.softplus(m.step(y)), m.states(y).chunk(2, -1)
        state = torch.zeros(x.shape[0], step.shape[-1], 2, dtype=x.dtype)
        found = []
        for t in range(x.shape[1]):
            decay = torch.exp(-step[:, t, :, None] * m.rates.exp())
            state = decay * state + (step[:, t] * y[:, t])[..., None] * into[:, t, None, :]
            found.append((state @ out[:, t, :, None]).squeeze(-1))
        return m.b(torch.stack(found, 1) + m.skip * y)

    model = Net(
        forward, a=L(5, 6), step=L(6, 6), states=L(6, 4), rates=parameter(6, 2), skip=parameter(6),
        b=L(6, 2),
    )  # fmt: skip
    communities = found(model, SEQ)
    assert offered(communities) == {"a": ("neuron", 6)}
    assert owned(communities, "a")["rates:0"] == [[i] for i in range(6)]
    assert "states:" in reasons(communities)
    assert_exact(communities, num_random=2)


class Caching(nn.Module):
    """Keeps what it computed, a count and a trace, as libraries do."""

    def __init__(self):
        super().__init__()
        self.a, self.b = L(5, 4), L(4, 2)
        self.cache, self.trace, self.last = {}, [], None
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.cache[x.device] = x.shape
        self.trace.append(x.shape)
        self.last, self.fresh = x, 1
        self.count += 1
        return self.b(self.a(x).relu())


def test_discovery_leaves_nothing_behind():
    model = Caching().eval()
    cache, before = model.cache, copy.deepcopy(vars(model))
    communities = natsel.discover(model, SEQ)
    assert list(communities) == ["a"]
    assert model.cache is cache
    assert (model.cache, model.trace, model.last) == ({}, [], None)
    assert vars(model).keys() == before.keys()
    assert model.count == 0
