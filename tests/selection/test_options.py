"""Who takes part, how many stay, and in which counts."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import natsel
from natsel import MACs, Parameters, Sparsity, select
from natsel.communities import Community, Cost
from natsel.selection.counts import Bounds

T = torch.tensor
SCORES = {"layer1.0": torch.arange(20.0), "layer1.1": torch.arange(8.0), "head": torch.arange(4.0)}


def kept(survivors):
    return {name: int(m.sum()) for name, m in survivors.items()}


class Block(nn.Module):
    """Attention with 4 heads, 6 values between, and 20 hidden neurons."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(6, 12) for _ in range(3))
        self.out = nn.Linear(12, 6)
        self.up, self.down = nn.Linear(6, 20), nn.Linear(20, 2)

    def forward(self, x):
        q, k, v = (p(x).view(*x.shape[:2], -1, 3).transpose(1, 2) for p in self.qkv)
        x = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.down(F.relu(self.up(x)))


@pytest.fixture(scope="module")
def block():
    communities = natsel.discover(Block(), torch.randn(1, 5, 6))
    found = [(c.kind, c.size) for c in communities.values()]
    assert found == [("head", 4), ("neuron", 6), ("neuron", 20)]
    return communities


# Patterns.


def test_only_what_is_included_takes_part():
    half = Sparsity(0.5)
    only = select(SCORES, half, include="layer1.*")
    assert kept(only) == {"layer1.0": 10, "layer1.1": 4, "head": 4}
    assert kept(select(SCORES, half, include=["head", "*.1"])) == kept(
        select(SCORES, half, exclude="layer1.0")
    )
    both = select(SCORES, half, include="layer1.*", exclude="*.0")
    assert kept(both) == {"layer1.0": 20, "layer1.1": 4, "head": 4}
    # The share is one of those that take part: 14 of 28.
    assert select(SCORES, half, exclude="head", scope="global").num_removed == 14


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": "layer2.*"}, r"include='layer2\.\*' .*such as layer1\.[01]"),
        ({"exclude": ["head", "haed"]}, r"exclude='haed' .*such as head"),
        ({"include": "LAYER1.*"}, r"include='LAYER1\.\*'"),
        ({"exclude": "*"}, r"exclude='\*' .*leaves at least one"),
        ({"include": []}, r"include=\[\]"),
        ({"include": 3}, "include=3"),
        ({"include": [3]}, "include=3"),
        ({"floor": {"tail": 2}}, "floor='tail'"),
        ({"floor": {"*": -2}}, r"floor\['\*'\]=-2"),
        ({"floor": {}}, r"floor=\{\}"),
        ({"floor": {"*": 1, "head": 2}}, r"floor=.*do not overlap; both match 'head'"),
        ({"multiple_of": 0}, "multiple_of=0"),
        ({"multiple_of": 8.0}, r"multiple_of=8\.0"),
        ({"multiple_of": True}, "multiple_of=True"),
        ({"budget": {}}, r"budget=\{\}"),
        ({"budget": {"tail": Sparsity(0.5)}}, "budget='tail'"),
        ({"budget": {"head": 0.5}}, r"budget\['head'\]=0\.5"),
        ({"budget": {"head": Parameters(0.5)}}, r"budget\['head'\]=Parameters"),
        ({"budget": {"h*": Sparsity(0.5), "*": Sparsity(0.1)}}, "do not overlap"),
        ({"budget": {"head": Sparsity(0.5)}, "exclude": "head"}, "budget='head'"),
    ],
)
def test_what_speaks_of_no_community_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        select(SCORES, **{"budget": Sparsity(0.5), **options})


def test_a_budget_for_each_pattern():
    budgets = {"layer1.*": Sparsity(0.5), "head": Sparsity(0.25)}
    assert kept(select(SCORES, budgets)) == {"layer1.0": 10, "layer1.1": 4, "head": 3}
    alone = select(SCORES, {"*.1": Sparsity(0.75)})
    assert kept(alone) == {"layer1.0": 20, "layer1.1": 2, "head": 4}
    # Within a pattern the scope is global: raw scores take all 14 from the low ones.
    together = select(SCORES, budgets, scope="global", normalize=None)
    assert kept(together) == {"layer1.0": 13, "layer1.1": 1, "head": 3}


# Floors.


def test_a_floor_for_each_pattern():
    options = {"scope": "global", "normalize": None, "floor": {"layer1.*": 6, "head": 2}}
    assert kept(select(SCORES, Sparsity(0.5), **options)) == {
        "layer1.0": 8,
        "layer1.1": 6,
        "head": 2,
    }
    with pytest.raises(ValueError, match=r"at most 0\.5625 with a floor of 2 to 6 in each of 3"):
        select(SCORES, Sparsity(0.6), **options)
    with pytest.raises(ValueError, match=r"4 of 8 in 'layer1\.1'.*floor of 5"):
        select(SCORES, Sparsity(0.5), floor={"*.1": 5})


# Multiples.


@given(st.integers(1, 70), st.integers(0, 80), st.integers(2, 16), st.integers(0, 70))
def test_allowed_counts(size, floor, multiple, count):
    bounds = Bounds(size, floor, multiple)
    allowed = [n for n in range(1, size) if n % multiple == 0 and n >= floor] + [size]
    count = min(count, size)
    assert bounds.least == allowed[0]
    assert bounds.nearest(count) == min(allowed, key=lambda n: (abs(n - count), n))
    assert bounds.at_most(count) == max([n for n in allowed if n <= count], default=allowed[0])


def test_multiples_by_hand():
    # 20 lose 10, 8 lose 4, 4 lose 2: rounded down; what has no multiple stays whole.
    by_community = select(SCORES, Sparsity(0.5), multiple_of=8)
    assert kept(by_community) == {"layer1.0": 8, "layer1.1": 8, "head": 4}
    assert by_community["layer1.0"].int().tolist() == [0] * 12 + [1] * 8
    fours = {"layer1.0": 8, "layer1.1": 4, "head": 4}
    assert kept(select(SCORES, Sparsity(0.5), multiple_of=4)) == fours
    # Over all, 12 of 32: four of the 20 twice and four of the 8; the 4 have no smaller multiple.
    over_all = select(SCORES, Sparsity(0.375), scope="global", multiple_of=4)
    assert kept(over_all) == {"layer1.0": 12, "layer1.1": 4, "head": 4}
    with pytest.raises(ValueError, match=r"at most 0\.3750 .*multiples of 8"):
        select(SCORES, Sparsity(0.5), scope="global", multiple_of=8)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.floats(0, 0.99).map(lambda x: round(x, 2)),
    st.integers(1, 9),
    st.integers(0, 12),
    st.integers(0, 99),
)
def test_laws_of_a_rounded_global_selection(sizes, share, multiple, floor, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = {f"{i}": torch.rand(n, generator=generator) for i, n in enumerate(sizes)}
    options = {"scope": "global", "floor": floor, "multiple_of": multiple}
    asked = Sparsity(share).count(sum(sizes))
    try:
        survivors = select(scores, Sparsity(share), **options)
    except ValueError:
        bounds = [Bounds(n, floor, multiple) for n in sizes]
        assert asked > sum(b.size - b.least for b in bounds)
        return
    # Met, and by less than the block that the last population brought along.
    assert asked <= survivors.num_removed < asked + multiple
    for name, mask in survivors.items():
        num = int(mask.sum())
        assert num == mask.numel() or num % multiple == 0
        assert num >= min(floor, mask.numel())
        if 0 < num < mask.numel():
            assert scores[name][mask].min() >= scores[name][~mask].max()


def one_by_one(scores, communities, meets, scope, multiple):
    """Let populations go one after the other, round what is left, and stop where it is enough."""
    queue = []
    for position, (name, score) in enumerate(scores.items()):
        for num_gone, index in enumerate(score.argsort().tolist()[: len(score) - 1], 1):
            by_share = ((num_gone - 0.5) / len(score), position)
            queue.append((by_share if scope == "community" else score[index].item(), name))
    left = {name: len(s) for name, s in scores.items()}
    for name in [None, *(name for _, name in sorted(queue))]:
        if name is not None:
            left[name] -= 1
        masks = {}
        for key, score in scores.items():
            step = 1 if communities[key].kind == "head" else multiple
            allowed = [*range(step, len(score), step), len(score)]
            count = min(allowed, key=lambda n, k=key: (abs(n - left[k]), n))
            masks[key] = torch.zeros(len(score), dtype=torch.bool)
            masks[key][score.argsort(descending=True)[:count]] = True
        if meets(masks):
            return masks
    return None


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([Parameters, MACs]),
    st.floats(0.1, 1).map(lambda x: round(x, 2)),
    st.sampled_from(["community", "global"]),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(0, 99),
)
def test_costs_are_met_with_multiples(block, kind, share, scope, multiple, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = {n: torch.rand(c.size, generator=generator) for n, c in block.items()}
    field = kind.__name__.lower()
    limit = Fraction(str(share)) * int(getattr(block.price(), field))

    def meets(masks):
        return getattr(block.price(masks), field) <= limit

    expected = one_by_one(scores, block, meets, scope, multiple)
    options = {"scope": scope, "normalize": None, "multiple_of": multiple}
    if expected is None:
        with pytest.raises(ValueError, match=rf"{field}=.*at least"):
            select(scores, kind(share), communities=block, **options)
        return
    survivors = select(scores, kind(share), communities=block, **options)
    assert all(torch.equal(survivors[n], expected[n]) for n in scores)


def test_heads_lose_one_at_a_time(block):
    scores = {n: torch.arange(float(c.size)) for n, c in block.items()}
    survivors = select(scores, Sparsity(0.25), communities=block, multiple_of=8)
    # 15 neurons are rounded down to 8; of 6 there is no multiple, so that they stay whole.
    assert list(kept(survivors).values()) == [3, 6, 8]


def test_what_stays_whole_counts_in_the_cost(block):
    scores = {n: torch.arange(float(c.size)) for n, c in block.items()}
    budget = Parameters(0.7)
    survivors = select(scores, budget, communities=block, include="up")
    assert [m.all().item() for m in survivors.values()] == [True, True, False]
    assert block.price(survivors).parameters <= 0.7 * block.price().parameters
    with pytest.raises(ValueError, match="floor of 1 in each of 1 communities"):
        select(scores, Parameters(0.2), communities=block, include="up")


class Experts(Mapping):
    """Communities of which one is chosen from two at a time."""

    def __init__(self):
        self.known = {
            "router": Community("router", "expert", 6, Cost(0, 0.0), (), minimum=2),
            "width": Community("width", "channel", 20, Cost(0, 0.0), ()),
        }

    def __getitem__(self, name):
        return self.known[name]

    def __iter__(self):
        return iter(self.known)

    def __len__(self):
        return len(self.known)


def test_experts_stay_as_many_as_a_router_chooses_and_are_not_rounded():
    scores = {"router": torch.arange(6.0), "width": torch.arange(20.0)}
    options = {"communities": Experts(), "multiple_of": 8}
    assert kept(select(scores, Sparsity(0.5), **options)) == {"router": 3, "width": 8}
    with pytest.raises(ValueError, match=r"5 of 6 in 'router'.*floor of 2"):
        select(scores, Sparsity(0.8), **options)
    most = {"router": Sparsity(2 / 3), "width": Sparsity(0.9)}
    assert kept(select(scores, most, **options)) == {"router": 2, "width": 8}
