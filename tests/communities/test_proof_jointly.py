"""Communities of one part that are tried together: exact ones are shown, others are not."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from natsel import Survivors, discover, extract
from natsel.communities.proof import trial
from natsel.communities.proof.doubled import in_float64
from natsel.communities.proof.influence import influences
from natsel.communities.proof.jointly import exact_together, selections
from natsel.communities.proof.parts import Parts
from natsel.communities.proof.selections import alone
from natsel.communities.proof.trial import Stage
from natsel.communities.surgery.surgery import silence

WIDTHS = (5, 8, 6, 8, 7, 3)
DEPTH = 48


class Passed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x > 5).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


MUTES = {
    "zero": lambda x: 0.0 * x,
    "a threshold, straight through": lambda x: (x > 5) + x - x.detach(),
    "a rounding, straight through": lambda x: x + ((x / 50).round() - x).detach(),
    "a function of its own": Passed.apply,
    "no gradient": lambda x: (x > 5).to(x.dtype),
}


class Chain(nn.Module):
    def __init__(self, mute=None, by="zero"):
        super().__init__()
        self.mute = mute
        self.by = MUTES[by]
        for number, sizes in enumerate(pairwise(WIDTHS)):
            setattr(self, f"l{number}", nn.Linear(*sizes))

    def forward(self, x):
        for number in range(len(WIDTHS) - 1):
            if number == self.mute:
                x = self.by(x)
            x = getattr(self, f"l{number}")(x)
            x = torch.tanh(x)
        return x


def tried(model, change=lambda c: c):
    inputs = (torch.randn(2, WIDTHS[0]),)
    found = discover(model.eval(), inputs, proof=False)
    communities = [change(c) for c in found.values()]
    stage = Stage(Parts(model, communities, inputs).whole, communities)
    return [sorted(names) for names in exact_together(stage, communities)]


def test_what_is_exact_is_shown_together():
    assert tried(Chain()) == [["l0", "l1", "l2", "l3"]]


def test_one_whose_consumer_loses_other_places_is_not_shown():
    def rolled(community):
        if community.name != "l2":
            return community
        *rest, last = community.slices
        return replace(community, slices=(*rest, replace(last, index=last.index.roll(1, 0))))

    # Of the half in which it is, one is too few to be tried together: it is then tried alone.
    assert tried(Chain(), rolled) == [["l0", "l1"]]


@pytest.mark.parametrize("by", MUTES)
def test_one_that_nobody_hears_is_not_shown(by):
    # Behind l1 nothing moves: nothing tells whether l0 and l1 are right, whatever gradients say.
    found = tried(Chain(mute=2, by=by))
    assert not {"l0", "l1"} & {name for names in found for name in names}
    assert by not in ("zero", "no gradient") or found == [["l2", "l3"]]


class Divided(nn.Module):
    """Divides by its width, and only what is rounded to 0 on any weights that are tried tells."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
        self.c, self.d = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        y = torch.tanh(self.a(x))
        y = Passed.apply(self.b(16 * y / y.size(1)))
        return y + self.d(torch.tanh(self.c(x)))


def test_a_gradient_alone_proves_nothing():
    assert list(discover(Divided().eval(), (torch.randn(2, 5),))) == ["c"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_step_is_seen_in_any_precision(dtype):
    torch.manual_seed(0)
    model = Chain().eval()
    communities = list(discover(model, (torch.randn(2, WIDTHS[0]),), proof=False).values())
    kept = selections(communities)[0]

    def run(network, *, gradients=False):
        with in_float64(), torch.set_grad_enabled(gradients):
            return [network(torch.ones(2, WIDTHS[0]))]

    def moved(network):
        return influences(silence(network, communities, kept), network, communities, kept, run)

    model = model.to(dtype)
    expected = moved(copy.deepcopy(model).double())
    found = moved(model)
    for name, heard in expected.items():
        assert min(heard.values()) > 0
        assert found[name] == pytest.approx(heard, rel=2e-2)


WAYS = {
    "a threshold": lambda x: (x > 5).to(x.dtype),
    "an activation": lambda x: torch.relu(x - 5),
    "a range": lambda x: x.clamp(5, 50),
    "a far threshold": lambda x: nn.functional.hardshrink(x, 30.0),
}


class TwoWays(nn.Module):
    """One of two ways is closed on weights of a usual size."""

    def __init__(self, way, divides):
        super().__init__()
        self.way, self.divides = WAYS[way], divides
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        y = torch.tanh(self.a(x))
        z = 8 * y / y.size(1) if self.divides else y
        return self.way(self.b(z)) + self.c(y)


@pytest.mark.parametrize("way", WAYS)
def test_where_one_of_two_ways_is_not_heard_it_is_made_louder(way):
    torch.manual_seed(0)
    inputs = (torch.randn(4, 5),)
    assert list(discover(TwoWays(way, divides=False).eval(), inputs)) == ["a"]
    assert not discover(TwoWays(way, divides=True).eval(), inputs)


def test_where_one_of_two_ways_is_not_heard_the_weights_of_the_model_are_tried():
    torch.manual_seed(0)
    model, inputs = TwoWays("a threshold", divides=True).eval(), (torch.randn(4, 5),)
    model.way = lambda x: torch.relu(x - 1000)
    assert list(discover(model, inputs)) == ["a"]  # nothing that it computes depends on it
    with torch.no_grad():
        model.b.weight.mul_(10_000)
    assert not discover(model, inputs)


class Attended(nn.Module):
    """What it attends to has no other reader, and all of its layers are widths."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(5, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = torch.tanh(self.before(x))
        return self.after(self.attention(y, y, y)[0])


def test_code_that_another_removal_makes_anew_proves_nothing():
    model, x = Attended().eval(), torch.randn(2, 4, 5)
    names = [c for c in discover(model, x, proof=False) if c != "attention"]
    assert "before" in names
    communities = discover(model, x)
    assert "before" not in communities
    for name, community in communities.items():
        alive = torch.arange(community.size) > 0
        extract(model, Survivors({name: alive}, communities))


def test_a_large_part_is_not_held_in_float64_for_gradients(monkeypatch):
    monkeypatch.setattr(trial, "MAX_DOUBLE_ELEMENTS", 1)
    monkeypatch.setattr(trial, "influences", lambda *_: pytest.fail("gradients of a large part"))
    assert tried(Chain()) == []


def test_any_two_keep_different_shares_and_each_an_odd_and_an_even_number():
    model = Chain().eval()
    communities = list(discover(model, (torch.randn(2, 5),), proof=False).values())
    kept = selections(communities)
    counts = {c.name: [int(s[c.name].sum()) for s in kept] for c in communities}
    for c in communities:
        assert {1, c.size - 1} <= set(counts[c.name])
        assert {n % 2 for n in counts[c.name]} == {0, 1}
    shares = {tuple(n / c.size for n in counts[c.name]) for c in communities}
    assert len(shares) == len(communities)


def deep():
    layers = []
    for _ in range(DEPTH):
        layers += [nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Hardswish()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(54, 2)).eval()


def first_of(model, inputs):
    first = next(iter(discover(model, inputs, proof=False).values()))
    return Stage(Parts(model, (), inputs).whole, [first]).outcome([first], alone(first))


def test_the_first_of_a_deep_chain_shows_once_normalisations_hold_what_passes(monkeypatch):
    torch.manual_seed(0)
    model, inputs = deep(), (torch.randn(2, 6, 3, 3),)
    assert first_of(model, inputs).reason is None
    monkeypatch.setattr(trial, "settle", lambda *_: None)
    assert first_of(model, inputs).silent
