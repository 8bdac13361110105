"""The gate test: what is offered is exact, whatever the size, the precision and the values."""

import math

import pytest
import torch
from exactness import Net, apart, offered, reasons
from torch import nn

import natsel
from natsel.communities.proof import proof
from natsel.communities.proof.likeness import Likeness, likeness
from natsel.communities.proof.parts import Parts
from natsel.communities.proof.selections import alone


class Attention(nn.Module):
    """Heads whose width forward takes from the tensor; only their number is written down."""

    def __init__(self, width=32, heads=4, *, cast=False, split="divide", returns=False):
        super().__init__()
        self.heads, self.cast, self.split, self.returns = heads, cast, split, returns
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        q, k, v = (self.apart(layer(x)) for layer in (self.q, self.k, self.v))
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        a = scores.float().softmax(-1).to(v.dtype) if self.cast else scores.softmax(-1)
        y = self.o((a @ v).transpose(1, 2).flatten(2))
        return (y, a) if self.returns else y

    def apart(self, x):
        width = x.shape[-1] // self.heads if self.split == "divide" else -1
        return x.reshape(*x.shape[:2], self.heads, width).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, width=32, hidden=48, **options):
        super().__init__()
        self.attention = Attention(width, **options)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        found = self.attention(x)
        x = x + (found[0] if isinstance(found, tuple) else found)
        return x + self.down(self.up(x).relu())


def network(depth=2, **options):
    torch.manual_seed(0)
    return nn.Sequential(*(Block(**options) for _ in range(depth)), nn.Linear(32, 3)).eval()


def scaled(model, by):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(by)
    return model


def assert_heads_follow(model, x):
    communities = natsel.discover(model, x)
    heads = [c for c in communities.values() if c.kind == "head"]
    assert heads, reasons(communities)
    for community in heads:
        keep = torch.arange(community.size) % 2 == 0
        survivors = natsel.Survivors({community.name: keep}, communities)
        small = natsel.extract(model, survivors)
        assert small.get_submodule(community.name).heads == int(keep.sum())
        assert natsel.verify(model, small, survivors, torch.randn_like(x) * 3).passed


@pytest.mark.parametrize("split", ["divide", "open"])
@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_number_of_heads_follows(split, cast, dtype):
    model = network(split=split, cast=cast).to(dtype)
    assert_heads_follow(model, (torch.randn(2, 7, 32) * 0.02).to(dtype))


@pytest.mark.parametrize("by", [1e-3, 0.1, 30.0])
def test_the_size_of_the_weights_decides_nothing(by):
    assert_heads_follow(scaled(network(), by), torch.randn(2, 7, 32))


def test_nor_do_equal_tokens():
    """With equal tokens attention is the same for all of them, whatever the heads."""
    assert_heads_follow(network(), torch.ones(1, 7, 32))
    model = nn.Sequential(nn.Embedding(50, 32), *network())
    communities = natsel.discover(model.eval(), torch.zeros(1, 7, dtype=torch.int64))
    assert any(c.kind == "head" and c.rebindings for c in communities.values())


def test_nor_does_the_size_of_the_model():
    model = network(depth=1, hidden=140_000)
    assert sum(p.numel() for p in model.parameters()) > 1 << 23
    assert_heads_follow(scaled(model, 0.1), torch.randn(1, 5, 32))


def test_a_width_that_is_the_number_of_heads_by_chance_is_not_taken_for_it():
    class Confused(Attention):
        def __init__(self):
            super().__init__(16, 4)
            self.dim = 4

        def apart(self, x):
            return x.reshape(*x.shape[:2], self.heads, self.dim).transpose(1, 2)

        def forward(self, x):
            q, k, v = (self.apart(layer(x)) for layer in (self.q, self.k, self.v))
            y = (q @ k.mT / 2).softmax(-1) @ v
            return self.o(y.transpose(1, 2).reshape(*x.shape[:2], -1))

    torch.manual_seed(0)
    model = scaled(nn.Sequential(Confused(), nn.Linear(16, 3)).eval(), 1e-3)
    communities = natsel.discover(model, torch.randn(2, 5, 16))
    (bound,) = communities["0"].rebindings
    assert (bound.attribute, bound.per_population) == ("heads", 1)


def test_an_output_of_a_part_that_nobody_reads_does_no_harm():
    """The weights of the heads are returned and thrown away one level up."""
    communities = natsel.discover(network(returns=True), torch.randn(2, 5, 32))
    assert offered(communities)["0.attention"] == ("head", 4)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_width_that_forward_takes_from_the_tensor_are_refused(parts):
    def forward(model, x):
        y = model.a(x).relu()
        cut = y.shape[1] // parts
        return model.p(y[:, :cut]) + model.q(y[:, cut:])

    first = 12 // parts
    torch.manual_seed(0)
    model = Net(
        forward, a=nn.Linear(5, 12), p=nn.Linear(first, 4), q=nn.Linear(12 - first, 4)
    ).eval()
    communities = natsel.discover(model, torch.randn(2, 5))
    assert offered(communities) == {}
    assert "a" in {r.name for r in communities.refused}


def test_a_model_that_does_not_run_in_float64_is_refused_by_name():
    def forward(model, x):
        if x.dtype == torch.float64:
            raise RuntimeError("only float32 here")
        return model.b(model.a(x).relu())

    model = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3)).eval()
    communities = natsel.discover(model, torch.randn(2, 4))
    assert offered(communities) == {}
    assert "nothing can be proven in float64: only float32 here" in reasons(communities)


def test_a_small_model_whose_heads_did_not_follow_does_not_pass():
    torch.manual_seed(0)
    model = scaled(network(cast=True), 0.05)
    x = torch.randn(2, 7, 32) * 0.02
    communities = natsel.discover(model, x)
    keep = torch.tensor([True, False, True, False])
    survivors = natsel.Survivors({"0.attention": keep}, communities)
    small = natsel.extract(model, survivors)
    small[0].attention.heads = 4
    for precision in (torch.float32, torch.bfloat16):
        found = natsel.verify(model.to(precision), small.to(precision), survivors, x.to(precision))
        assert not found.passed
        assert found.precision == "float64"
        assert "of what the removal changes" in found.reason


def test_a_removal_without_effect_is_compared_on_louder_weights():
    """Nothing reads these heads: every small model gives the same outputs, a wrong one too."""
    model = network(depth=1)
    x = torch.randn(2, 7, 32)
    communities = natsel.discover(model, x)
    nn.init.zeros_(model[0].attention.o.weight)
    keep = torch.tensor([True, True, False, False])
    survivors = natsel.Survivors({"0.attention": keep}, communities)
    small = natsel.extract(model, survivors)
    right = natsel.verify(model, small, survivors, x)
    assert right.passed
    assert right.effect == 0.0
    small[0].attention.heads = 4
    assert not natsel.verify(model, small, survivors, x).passed


def test_rounding_in_the_precision_of_the_model_is_told_and_decides_nothing():
    model = network(hidden=700)
    x = torch.randn(2, 7, 32)
    communities = natsel.discover(model, x)
    scores = {name: torch.rand(c.size) for name, c in communities.items()}
    survivors = natsel.select(scores, natsel.Sparsity(0.3), communities=communities)
    found = natsel.verify(model, natsel.extract(model, survivors), survivors, x)
    assert found.passed
    assert found.max_rel_difference > 1e-9
    assert found.error < 1e-12


def parts_of(model, x, ending):
    """The smallest parts that hold communities of a name, and a judge of their likeness."""
    communities = natsel.discover(model, x)
    parts = Parts(model, communities.values(), (x,))
    names = [name for name in communities if name.endswith(ending)]
    found = [next(iter(parts.around(communities[n]))) for n in names]
    with torch.no_grad():
        alike = Likeness(torch.export.export(model, (x,), strict=False))
    return [communities[n] for n in names], found, [alike.number(part) for part in found]


def test_structure_that_repeats_is_proven_once():
    communities, parts, numbers = parts_of(network(depth=3), torch.randn(2, 5, 32), "attention")
    assert [part.path for part in parts] == ["0.attention", "1.attention", "2.attention"]
    assert len(set(numbers)) == 1
    local = [p.local(c) for p, c in zip(parts, communities, strict=True)]
    assert len({likeness(c) for c in local}) == 1
    outer = parts[2].outer(local[2])
    assert [s.tensor for s in outer.slices] == [s.tensor for s in communities[2].slices]


def by_size(y):
    return y / y.size(-1)


SAME_NAME = type("Attention", (Attention,), {})
UNLIKE = {
    "another function": lambda m: setattr(m, "then", torch.tanh),
    "another number": lambda m: setattr(m, "split", "open"),
    "a number in a list": lambda m: setattr(m, "options", [3]),
    "another object": lambda m: setattr(m, "config", object()),
    "a private number": lambda m: setattr(m, "_number", 7),
    "a class of the same name": lambda m: setattr(
        m, "__class__", type("Attention", (Attention,), {})
    ),
}


@pytest.mark.parametrize("change", UNLIKE.values(), ids=UNLIKE)
def test_whatever_may_tell_layers_apart_does(change):
    model = network(depth=2)
    change(model[1].attention)
    _, _, numbers = parts_of(model, torch.randn(2, 5, 32), "attention")
    assert len(set(numbers)) == 2


class Held(nn.Module):
    """A layer that holds a part of its forward."""

    def __init__(self, then):
        super().__init__()
        self.then, self.up, self.down = then, nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return 1000 * x + self.down(self.then(self.up(x)))


def test_layers_that_differ_in_a_function_are_not_proven_once(monkeypatch):
    monkeypatch.setattr(proof, "MAX_DOUBLE_ELEMENTS", 0)  # the whole on its own, tiny, weights
    torch.manual_seed(0)
    model = scaled(nn.Sequential(Held(torch.tanh), Held(by_size)).eval(), 1e-3)
    communities = natsel.discover(model, torch.randn(2, 8) * 0.02)
    assert "0.up" in communities
    assert "1.up" not in communities


def test_a_part_that_differs_is_not_overruled_by_a_model_that_hides_it():
    """What enters is so loud in the whole that each token sees itself alone, with any scale."""

    class Scaled(Attention):
        def __init__(self):
            super().__init__()
            self.scale = 0.3 / self.heads
            self.idle = 4  # another number that could follow

        def forward(self, x):
            q, k, v = (self.apart(layer(x)) for layer in (self.q, self.k, self.v))
            return self.o(
                ((q @ k.mT * len(q[0]) * self.scale).softmax(-1) @ v).transpose(1, 2).flatten(2)
            )

    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.idle = Scaled(), 4

        def forward(self, x):
            x = 1e5 * x
            return x + self.attention(x)

    torch.manual_seed(0)
    model = nn.Sequential(Loud(), nn.Linear(32, 3)).eval()
    communities = natsel.discover(model, torch.randn(1, 5, 32))
    assert "0.attention" not in communities


def test_a_width_that_a_part_returns_and_the_model_does_not_is_offered_beside_others():
    class Trunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.block = nn.Linear(5, 32), Block()
            self.norm = nn.LayerNorm(32)

        def forward(self, x):
            return self.norm(self.block(self.embed(x)))

    torch.manual_seed(0)
    model = nn.Sequential(Trunk(), nn.Linear(32, 3)).eval()
    found = offered(natsel.discover(model, torch.randn(2, 6, 5), residual=True))
    assert found["0.embed"] == ("channel", 32)
    assert found["0.block.up"] == ("neuron", 48)
    assert found["0.block.attention"] == ("head", 4)


def test_the_parts_of_a_model_end_with_the_model():
    model = network(depth=1)
    communities = natsel.discover(model, torch.randn(2, 5, 32))
    parts = Parts(model, communities.values(), (torch.randn(2, 5, 32),))
    assert [p.path for p in parts.around(communities["0.attention"])] == ["0.attention", "0", ""]
    assert [p.path for p in parts.around(communities["0.up"])] == ["0", ""]


@pytest.mark.parametrize("size", [2, 3, 4, 6, 7, 64])
def test_a_community_alone_keeps_both_parities_few_and_all_but_one(size):
    from natsel.communities.community import Community, Cost

    community = Community("c", "neuron", size, Cost(1, 1.0), ())
    counts = [int(s["c"].sum()) for s in alone(community)]
    assert {1, size - 1} <= set(counts)
    assert size < 4 or {n % 2 for n in counts} == {0, 1}


def test_every_selection_of_what_is_offered_can_be_extracted():
    model = network(split="open")
    x = torch.randn(2, 7, 32)
    communities = natsel.discover(model, x)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        masks = {}
        for name, community in communities.items():
            share = torch.rand(1, generator=generator)
            masks[name] = torch.rand(community.size, generator=generator) < share
            masks[name][int(torch.randint(community.size, (1,), generator=generator))] = True
        natsel.extract(model, natsel.Survivors(masks, communities))
    assert apart(communities, masks, x) < 1e-5
