"""Branches of residual streams: found in the graph, removed from modules, equal to the masked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import natsel
from natsel.communities.branches.absent import Absent
from natsel.communities.branches.branch import Dropped, Shortening, Stand


class Block(nn.Module):
    """h + W2 relu(W1 h)."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(width, 2 * width)
        self.second = nn.Linear(2 * width, width)

    def forward(self, h):
        return h + self.second(torch.relu(self.first(h)))


class Tower(nn.Module):
    """Blocks between an entry and an exit."""

    def __init__(self, *blocks, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.enter = nn.Linear(3, width)
        self.blocks = nn.ModuleList(blocks or [Block(width) for _ in range(3)])
        self.leave = nn.Linear(width, 2)

    def forward(self, x):
        h = self.enter(x)
        for block in self.blocks:
            h = block(h)
        return self.leave(h)


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def branches_of(model, inputs=X):
    return natsel.discover(model, inputs, branches=True).only("branch")


def test_each_block_of_a_tower_is_a_branch_of_one_stream():
    (community,) = branches_of(Tower()).values()
    assert community.kind == "branch"
    assert [b.name for b in community.branches] == [f"blocks.{i}.second" for i in range(3)]
    assert [b.block for b in community.branches] == ["blocks.0", "blocks.1", "blocks.2"]
    # 4 x 8 + 8 and 8 x 4 + 4
    assert [b.cost.parameters for b in community.branches] == [76, 76, 76]
    assert community.branches[0].gates == ("blocks.0.second.weight", "blocks.0.second.bias")


def test_what_goes_is_gone_and_the_rest_computes_what_it_computed():
    model = Tower()
    communities = branches_of(model)
    (name,) = communities
    keep = torch.tensor([True, False, True])
    small = natsel.extract(model, natsel.Survivors({name: keep}, communities))
    assert len(small.blocks) == 2
    with torch.no_grad():
        expected = model.leave(model.blocks[2](model.blocks[0](model.enter(X))))
        assert torch.equal(small(X), expected)
    assert communities.price({name: keep}).parameters == sum(p.numel() for p in small.parameters())
    assert len(model.blocks) == 3


def test_without_the_option_nothing_changes():
    assert all(c.kind != "branch" for c in natsel.discover(Tower(), X).values())


class Scaled(nn.Module):
    """A block with a scale of its own, as ConvNeXt has it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.full((4,), 0.5))

    def forward(self, h):
        return h + self.scale * self.inner(torch.relu(h))


def test_the_scale_of_a_block_goes_with_its_block():
    model = Tower(Scaled(), Scaled())
    communities = branches_of(model)
    (name,) = communities
    keep = torch.tensor([True, False])
    small = natsel.extract(model, natsel.Survivors({name: keep}, communities))
    assert "blocks.1.scale" not in dict(small.named_parameters())
    assert communities.price({name: keep}).parameters == sum(p.numel() for p in small.parameters())


class PostNormed(nn.Module):
    """norm(h + f(h)): what is left of the block still does something."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, h):
        return self.norm(h + self.inner(h))


def test_a_block_that_does_something_without_its_branch_stays():
    model = Tower(PostNormed(), PostNormed(), PostNormed())
    communities = branches_of(model)
    ((name, community),) = communities.items()
    assert [b.block for b in community.branches] == ["", "", ""]
    keep = torch.tensor([False, True, True])
    small = natsel.extract(model, natsel.Survivors({name: keep}, communities))
    assert isinstance(small.blocks[0].inner, Absent)
    h = model.blocks[0].norm(model.enter(X))
    with torch.no_grad():
        assert torch.equal(small(X), model.leave(model.blocks[2](model.blocks[1](h))))


class Doubling(nn.Module):
    """A module that two sums use is in no branch alone."""

    def __init__(self, shared):
        super().__init__()
        self.shared = shared

    def forward(self, h):
        return h + self.shared(h)


def test_what_several_branches_share_belongs_to_none():
    shared = nn.Linear(4, 4)
    found = natsel.discover(Tower(Doubling(shared), Doubling(shared)), X, branches=True)
    assert all(c.kind != "branch" for c in found.values())


class Skipping(nn.Module):
    """A skip over a part that changes the width: neither side comes from the other."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)
        self.skip = nn.Linear(4, 4)

    def forward(self, h):
        return self.skip(h) + self.up(torch.relu(self.down(h)))


def test_a_sum_of_which_no_part_is_the_stream_has_no_branches():
    found = natsel.discover(Tower(Skipping(), Skipping()), X, branches=True)
    assert all(c.kind != "branch" for c in found.values())


class Flagged(nn.Module):
    """A block that multiplies by a number of its own what it adds to."""

    def __init__(self, factor):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.factor = factor

    def forward(self, h):
        return self.factor * h + self.inner(torch.relu(h))


def test_a_sum_with_a_scaled_stream_has_no_branches():
    found = natsel.discover(Tower(Flagged(2.0), Flagged(3.0)), X, branches=True)
    assert all(c.kind != "branch" for c in found.values())


@pytest.mark.parametrize("seed", range(6))
def test_neurons_and_branches_go_together(seed):
    model = Tower()
    communities = natsel.discover(model, X, branches=True)
    generator = torch.Generator().manual_seed(seed)
    scores = {n: torch.rand(c.size, generator=generator) for n, c in communities.items()}
    survivors = natsel.select(scores, natsel.Sparsity(0.4), communities=communities, scope="global")
    small = natsel.extract(model, survivors)
    natsel.verify(model, small, survivors, X).require()
    price = communities.price(survivors)
    assert price.parameters == sum(p.numel() for p in small.parameters())


def test_what_was_cut_twice_is_rebuilt_from_the_dense_model(tmp_path):
    model = Tower(*[Block(4) for _ in range(5)])
    small = model
    for keep in ([True, False, True, True, True], [True, True, False, True]):
        communities = branches_of(small)
        (name,) = communities
        survivors = natsel.Survivors({name: torch.tensor(keep)}, communities)
        small = natsel.extract(small, survivors)
    natsel.save(small, tmp_path)
    back = natsel.load(tmp_path, model=model)
    assert len(back.blocks) == 3
    assert torch.equal(back(X), small(X))


def test_shortenings_compose():
    first = Shortening(
        {"layers": Dropped((1,), 4)}, (Stand("layers.2.mlp", True),), {"layers.1.attn.idx": 1}
    )
    later = Shortening({"layers": Dropped((0,), 3)}, (Stand("layers.0.attn", True, 2),))
    both = first.then(later)
    assert both.dropped == {"layers": Dropped((0, 1), 4)}
    assert both.stands == (Stand("layers.1.mlp", True), Stand("layers.0.attn", True, 2))
    assert both.numbers == {"layers.0.attn.idx": 1}
    assert Shortening.from_dict(both.to_dict()) == both


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"dropped": [], "stands": [], "numbers": {}},
        {"dropped": {"a": [[True], 3]}, "stands": [], "numbers": {}},
        {"dropped": {"a": [[-1], 3]}, "stands": [], "numbers": {}},
        {"dropped": {}, "stands": [{"path": 3, "zero": True, "arity": 0}], "numbers": {}},
        {"dropped": {}, "stands": [], "numbers": {"a": "b"}},
    ],
)
def test_a_plan_that_says_something_else_is_refused(data):
    with pytest.raises(ValueError, match="plan branches"):
        Shortening.from_dict(data)
