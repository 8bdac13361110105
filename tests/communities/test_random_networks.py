"""What is offered of networks that nobody chose is extracted, and equals the masked network."""

from dataclasses import replace

import pytest
import torch
from random_networks import NetworkWay, build, draw, inputs_of, judged, lost
from random_networks.attention import WAYS, AttentionWay, can_follow
from random_networks.judge import Verdict, judge, louden, masked, run
from random_networks.layers import CONVOLUTIONS, LIBRARY, PERCEPTRONS
from random_networks.network import LayerWay, runs, smaller
from torch import nn

import natsel

QUICK = range(1000, 1025)
MANY = range(0, 500)
LAYERS = PERCEPTRONS | CONVOLUTIONS | LIBRARY


def assert_right(way: NetworkWay, *, many: int = 3) -> Verdict:
    verdict = judged(way, many=many)
    assert not verdict.faults, f"{way}\n" + "\n".join(map(str, verdict.faults[:5]))
    return verdict


@pytest.mark.parametrize("seed", QUICK)
def test_what_is_offered_equals_the_masked_network(seed):
    assert_right(draw(seed), many=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_what_is_offered_of_many_equals_the_masked_network(seed):
    assert_right(draw(seed))


def of_layer(name: str) -> NetworkWay:
    return NetworkWay(blocks=(LayerWay(name),), images=name in CONVOLUTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_each_way_to_write_a_layer_is_exact_or_refused(name):
    assert_right(of_layer(name))


@pytest.mark.parametrize("name", [name for name, way in LAYERS.items() if way.removable])
def test_what_can_go_is_offered(name):
    way = of_layer(name)
    communities = natsel.discover(build(way), (inputs_of(way, 0),))
    assert not list(lost(way, communities))


WORDS = [
    replace(AttentionWay(), **{name: word})
    for name, words in WAYS.items()
    for word in dict.fromkeys(words)
    if word != getattr(AttentionWay(), name)
]


def of_word(attention: AttentionWay) -> NetworkWay:
    width = attention.heads * attention.dim
    return NetworkWay(blocks=(attention,), width=width, loud=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("attention", WORDS, ids=str)
def test_each_way_to_write_an_attention_is_exact_or_refused(attention):
    way = of_word(attention)
    if not runs(way):
        pytest.skip("no network is written in this way")
    communities = assert_right(way).communities
    if communities is not None:
        assert not list(lost(way, communities))


# Each of these was once offered and wrong, or could not be extracted.

SATURATED = NetworkWay(
    blocks=(LayerWay("plain"), AttentionWay(scale="all")),
    residual="dominant",
    entry="tokens",
    weights="small",
    length=4,
)
HIDDEN = AttentionWay(dim=8, split="tensor", scale="tensor")
FAILED_ONCE = {
    "as many heads as each is wide": NetworkWay(blocks=(AttentionWay(dim=4),), weights="tiny"),
    "casts and small inputs": NetworkWay(blocks=(replace(HIDDEN, softmax="float"),), loud=0.02),
    "many parameters": NetworkWay(blocks=(HIDDEN,), weights="small", loud=0.02, big=9),
    "half precision": NetworkWay(blocks=(HIDDEN,), weights="tiny", loud=0.02, dtype="bfloat16"),
    "layers that only look alike": NetworkWay(
        blocks=(LayerWay("plain"), LayerWay("over_size")),
        residual="dominant",
        weights="tiny",
        loud=0.02,
        big=35,
    ),
    "halves": NetworkWay(blocks=(LayerWay("two_halves"),)),
    "uneven parts": NetworkWay(blocks=(LayerWay("conv_uneven_parts"),), images=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", FAILED_ONCE.values(), ids=FAILED_ONCE)
def test_what_failed_once_is_right(way):
    assert_right(way, many=1)


def test_a_saturated_softmax_hides_no_scale():
    assert_right(SATURATED, many=1)


# The judge itself.

HEADS = NetworkWay(blocks=(AttentionWay(dim=8, split="tensor"),), weights="small", loud=0.02)


def offered_with(monkeypatch, way, **changes):
    """Let discovery offer heads as they are not, and proofs pass."""
    model, x = build(way), (inputs_of(way, 0),)
    right = natsel.discover(model, x)
    wrong = [replace(c, **changes) if c.kind == "head" else c for c in right.values()]
    false = natsel.Communities(model, x, tuple(wrong), pricing=right.pricing)
    extract = natsel.extract
    monkeypatch.setattr(natsel, "discover", lambda model, inputs: false)
    monkeypatch.setattr(
        natsel, "extract", lambda m, s, **options: extract(m, s, **options | {"verify": False})
    )


def test_heads_that_do_not_follow_are_seen(monkeypatch):
    offered_with(monkeypatch, HEADS, rebindings=())
    kinds = {kind for kind, _ in judged(HEADS, stop=True).faults}
    assert {"SILENTLY DIFFERENT", "NUMBER STALE"} <= kinds


def test_what_cannot_be_extracted_is_seen():
    class Fails(nn.Linear):
        def forward(self, x):
            assert self.weight.shape[1] == 8
            return super().forward(x)

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = (torch.randn(2, 4),)
    communities = natsel.discover(model, x)
    model[2].__class__ = Fails
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(natsel, "discover", lambda model, inputs: communities)
        found = judge(model, x, lambda model: [x])
    assert found.kind in ("EXTRACT RAISES", "DOES NOT RUN")


def test_masking_is_what_it_says():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    communities = natsel.discover(model, (torch.zeros(1, 2).double(),))
    silent = masked(model, communities, {"0": torch.tensor([True, False, True])})
    expected = model[2].weight.detach().clone()
    expected[:, 1] = 0
    assert torch.equal(silent[2].weight, expected)
    assert torch.equal(silent[0].weight, model[0].weight)


def test_casts_are_lifted():
    class Casts(nn.Module):
        def forward(self, x):
            y = x.float() + x.to(torch.bfloat16) + x.softmax(-1, dtype=torch.float32)
            return y + torch.ones(3, dtype=torch.float16)

    x = torch.tensor([1 / 3, 2 / 3, 1.0], dtype=torch.float64)
    (y,) = run(Casts(), (x,))
    assert torch.equal(y, x + x + x.softmax(-1) + 1)


def test_loud_weights_are_neither_constant_nor_small():
    model = nn.Sequential(nn.Linear(50, 60), nn.LayerNorm(60))
    for p in model.parameters():
        nn.init.zeros_(p)
    louden(model, seed=0)
    assert all(p.std() > 0.1 for p in model.parameters())


def test_a_seed_is_one_network():
    assert draw(3) == draw(3)
    first, second = build(draw(3)).state_dict(), build(draw(3)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_ways_get_smaller_until_nothing_is_left_to_leave_out():
    way = draw(5)
    while less := next(smaller(way), None):
        assert len(str(less)) < len(str(way)) or less.blocks != way.blocks
        way = less
    assert way == NetworkWay(blocks=way.blocks)
    assert len(way.blocks) == 1


def test_most_attentions_are_of_ways_that_can_be_followed_or_say_why_not():
    drawn = [b for seed in range(40) for b in draw(seed).blocks if isinstance(b, AttentionWay)]
    assert {can_follow(way) for way in drawn} == {True, False}
