"""What forward computes and throws away fixes no population; it still runs, and is cut along."""

# ruff: noqa: E501 - one network a line reads best

import copy

import pytest
import torch
from exactness import Net, assert_exact, found, offered, parameter, reasons
from torch import nn

import natsel

L = nn.Linear
VEC, SEQ = torch.randn(3, 4), torch.randn(2, 5, 16)


def hidden(unused, **parts):
    """Eight hidden neurons, of which something is computed that nobody reads."""

    def forward(self, x):
        h = self.a(x).relu()
        result = unused(self, h)
        return (self.b(h), result) if self.returned else self.b(h)

    parts["returned"] = False
    return Net(forward, a=L(4, 8), b=L(8, 3), **parts)


UNUSED = {
    "softmax": hidden(lambda s, h: h.softmax(-1)),
    "mean": hidden(lambda s, h: h.mean(-1)),
    "an entropy": hidden(lambda s, h: (h.softmax(-1) * h.log_softmax(-1)).sum()),
    "a sort": hidden(lambda s, h: h.sort(-1)),
    "cumsum": hidden(lambda s, h: h.cumsum(-1)),
    "a gram matrix": hidden(lambda s, h: h @ h.t()),
    "a cast": hidden(lambda s, h: h.to(torch.float16).softmax(-1).to(torch.float32)),
    "in place": hidden(lambda s, h: h.clone().add_(1).softmax(-1)),
    "random numbers": hidden(lambda s, h: (h * torch.rand_like(h)).sum(-1)),
    "layer_norm": hidden(lambda s, h: s.n(h), n=nn.LayerNorm(8)),
    "rms_norm": hidden(lambda s, h: s.n(h), n=nn.RMSNorm(8)),
    "batch_norm": hidden(lambda s, h: s.n(h), n=nn.BatchNorm1d(8)),
    "a head": hidden(lambda s, h: s.n(h), n=L(8, 5)),
    "a head after softmax": hidden(lambda s, h: s.n(h.softmax(-1)).log_softmax(-1).sum(-1), n=L(8, 5)),
    "a head after a norm": hidden(lambda s, h: s.o(s.n(h)), n=nn.LayerNorm(8), o=L(8, 5)),
    "a parameter": hidden(lambda s, h: (h @ s.w.t()).mean(-1), w=parameter(5, 8)),
    "a bias": hidden(lambda s, h: (h + s.w).softmax(-1), w=parameter(8)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSED)
def test_an_unused_result_fixes_nothing(name):
    communities = found(UNUSED[name], VEC)
    assert offered(communities) == {"a": ("neuron", 8)}, reasons(communities)
    assert_exact(communities)


MIXED = ("softmax", "mean", "an entropy", "a sort", "cumsum", "a gram matrix", "layer_norm")


@pytest.mark.parametrize("name", MIXED)
def test_the_same_result_fixes_what_it_mixes_where_it_is_returned(name):
    model = copy.deepcopy(UNUSED[name])
    model.returned = True
    communities = found(model, VEC)
    assert not communities
    assert "a" in {r.name for r in communities.refused}


def attention(called, **options):
    def forward(self, x):
        return self.o(called(self.a, x)[0])

    options = {"batch_first": True, **options}
    return Net(forward, a=nn.MultiheadAttention(16, 4, **options), o=L(16, 3))


MASK = torch.ones(5, 5, dtype=torch.bool).triu(1)
ATTENTION = {
    "default": attention(lambda a, x: a(x, x, x)),
    "weights per head": attention(lambda a, x: a(x, x, x, average_attn_weights=False)),
    "tokens first": attention(lambda a, x: a(x, x, x), batch_first=False),
    "other widths": attention(lambda a, x: a(x, x[..., :6], x[..., :7]), kdim=6, vdim=7),
    "a mask": attention(lambda a, x: a(x, x, x, attn_mask=MASK)),
    "padding": attention(lambda a, x: a(x, x, x, key_padding_mask=x[..., 0] > 9)),
    "no bias": attention(lambda a, x: a(x, x, x), bias=False),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTENTION)
def test_heads_are_offered_where_the_averaged_weights_are_thrown_away(name):
    communities = found(ATTENTION[name], SEQ)
    assert offered(communities)["a"] == ("head", 4), reasons(communities)
    assert_exact(communities)
    survivors = natsel.select({"a": torch.arange(4.0)}, natsel.Sparsity(0.5))
    small = natsel.extract(communities.model, survivors, communities=communities)
    assert small.a.num_heads == 2


def test_heads_are_left_whole_where_the_weights_are_returned():
    net = Net(lambda s, x: s.a(x, x, x), a=nn.MultiheadAttention(16, 4, batch_first=True))
    communities = found(net, SEQ)
    assert not any(c.kind == "head" for c in communities.values())
    assert "output" in reasons(communities)


def test_what_a_buffer_keeps_is_used():
    def forward(self, x):
        h = self.a(x).relu()
        self.seen.copy_(h.mean(0))
        return self.b(h)

    net = Net(forward, a=L(4, 8), b=L(8, 3))
    net.register_buffer("seen", torch.zeros(8))
    communities = found(net, VEC)
    assert not communities
    assert {r.name: r.reason for r in communities.refused}[
        "a"
    ] == "it is kept in a buffer of the model"


def test_the_exported_program_is_left_as_it_is():
    model = UNUSED["softmax"].float()
    program = torch.export.export(model, (VEC,))
    before = str(program.graph)
    from natsel.communities.labels.propagation import Propagation
    from natsel.communities.tensors import canonical_names

    Propagation(program, canonical_names(model))
    assert str(program.graph) == before
    assert "softmax" in before
