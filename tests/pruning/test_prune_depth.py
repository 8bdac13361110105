"""Branches in one call, with all that comes after: compensation, files, ONNX, programs, latency."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import natsel


class Block(nn.Module):
    """h + W2 relu(W1 h)."""

    def __init__(self, width=4):
        super().__init__()
        self.first = nn.Linear(width, 6)
        self.second = nn.Linear(6, width)

    def forward(self, h):
        return h + self.second(torch.relu(self.first(h)))


class Tower(nn.Module):
    """Blocks between an entry and an exit."""

    def __init__(self, depth=4):
        super().__init__()
        self.enter = nn.Linear(3, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.leave = nn.Linear(4, 2)

    def forward(self, x):
        h = self.enter(x)
        for block in self.blocks:
            h = block(h)
        return self.leave(h)


G = torch.Generator().manual_seed(0)
DATA = [(torch.randn(16, 3, generator=G), torch.randint(2, (16,), generator=G)) for _ in range(2)]
X = DATA[0][0][:4]
NAME = "blocks:branches"


@pytest.fixture
def tower():
    torch.manual_seed(0)
    return Tower().eval()


def test_branches_go_by_the_loss_and_others_by_their_scorer(tower):
    pruned = natsel.prune(
        tower, X, natsel.Sparsity(0.5), scorer="magnitude", data=DATA, branches=True
    )
    known = natsel.discover(tower, X, branches=True)
    scores = natsel.score(known, {"branch": "loss", "neuron": "magnitude"}, data=DATA)
    expected = natsel.select(scores, natsel.Sparsity(0.5))
    assert all(torch.equal(pruned.survivors[n], expected[n]) for n in expected)
    assert len(pruned.small.blocks) == 2
    assert pruned.verification.passed
    assert pruned.compensation is not None
    kept = dict(pruned.small.named_parameters())
    plain = dict(natsel.extract(tower, pruned.survivors).named_parameters())
    changed = {n for n, p in kept.items() if not torch.equal(p, plain[n])}
    assert changed == set(pruned.compensation.tensors) != set()
    assert any(name.startswith("blocks.1.") for name in changed)
    assert pruned.cost.after.parameters == sum(p.numel() for p in pruned.small.parameters())


def test_a_scorer_of_branches_takes_out_branches_alone(tower):
    pruned = natsel.prune(
        tower, X, natsel.Parameters(0.7), scorer="cosine", data=DATA, branches=True
    )
    assert list(pruned.survivors) == [NAME]
    assert all(tuple(b.first.weight.shape) == (6, 4) for b in pruned.small.blocks)
    assert pruned.cost.after.parameters <= 0.7 * pruned.cost.before.parameters


def test_whole_blocks_are_taken_by_name(tower):
    pruned = natsel.prune(
        tower, X, natsel.Sparsity(0.25), scorer="loss", data=DATA, branches="blocks"
    )
    assert list(pruned.survivors) == ["blocks:blocks"]
    assert len(pruned.small.blocks) == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"branches": True}, "data=None is not allowed: expected batches of data with labels"),
        ({"branches": True, "data": DATA, "scorer": "adaptive"}, "branches"),
        ({"branches": "layers", "data": DATA}, "branches='layers' is not allowed"),
    ],
)
def test_what_cannot_be_is_refused(tower, options, told):
    with pytest.raises(ValueError, match=told):
        natsel.prune(tower, X, natsel.Sparsity(0.5), **options)


def test_latency_is_measured_on_shortened_models():
    torch.manual_seed(0)
    deep = Tower(12).eval()
    communities = natsel.discover(deep, X, branches=True).only("branch")
    scores = {NAME: torch.arange(12.0)}
    survivors = natsel.select(scores, natsel.Latency(0.8, repeats=9), communities=communities)
    assert 0 < int(survivors[NAME].sum()) < 12


def test_a_shortened_model_is_exported(tower, tmp_path):
    pytest.importorskip("onnxruntime")
    pruned = natsel.prune(
        tower, X, natsel.Sparsity(0.5), scorer="loss", data=DATA, branches=True, compensate=False
    )
    assert natsel.export_onnx(pruned.small, tmp_path / "small.onnx", X) < 1e-5


def test_a_shortened_program_computes_what_the_masked_one_does(tower):
    program = natsel.as_program(tower, X)
    communities = natsel.discover(program, X, branches=True)
    assert all(c.kind != "branch" for c in communities.values()) or communities
    streams = [c for c in communities.values() if c.branches]
    for community in streams:
        keep = torch.ones(community.size, dtype=torch.bool)
        keep[0] = False
        survivors = natsel.Survivors({community.name: keep}, communities)
        small = natsel.extract(program, survivors)
        assert natsel.verify(program, small, survivors, X).passed


def test_language_models_are_shortened_by_auto():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=16,
            intermediate_size=24,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_hidden_layers=4,
            vocab_size=50,
        )
    ).eval()
    tokens = torch.randint(3, 50, (2, 8), generator=G)
    data = [{"input_ids": tokens, "labels": tokens}]
    pruned = natsel.prune(
        model, {"input_ids": tokens}, natsel.Parameters(0.7), data=data, branches=True
    )
    assert pruned.cost.after.parameters <= 0.7 * pruned.cost.before.parameters
    assert pruned.cost.after.parameters == sum(p.numel() for p in pruned.small.parameters())
    assert "model.layers:branches" in pruned.survivors
    ended = pruned.small.generate(tokens, max_new_tokens=3, do_sample=False)
    assert ended.shape == (2, 11)
