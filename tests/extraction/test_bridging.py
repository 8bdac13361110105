"""Gaps in a stream are bridged by the survivor before them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import natsel
from natsel.extraction.extract import extracted


class Block(nn.Module):
    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width, bias=False)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class Tower(nn.Module):
    def __init__(self, depth: int, width: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width, generator) for _ in range(depth))
        self.last = nn.Linear(width, 2)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def tower(out):
    model = Tower(5)
    found = natsel.discover(model, torch.ones(1, 4), branches=True).only("branch")
    (name,) = found
    mask = torch.ones(5, dtype=torch.bool)
    mask[out] = False
    rows = torch.randn(400, 4, generator=torch.Generator().manual_seed(1))
    return model, natsel.Survivors({name: mask}, found), rows


def by_hand(model, kept_before, out, rows, ridge):
    """Return the weight of the last layer before a gap: least squares, written down."""
    with torch.no_grad():
        x = model.first(rows).double()
        target = model.first(rows).double()
        blocks = copy.deepcopy(model).double().blocks
        for number in range(out[-1] + 1):
            target = blocks[number](target)
        for number in kept_before[:-1]:
            x = blocks[number](x)
        block = blocks[kept_before[-1]]
        k = torch.tanh(block.up(x))
        lacking = target - (x + block.down(k))
        scale = ridge * (k - k.mean(0)).square().mean() * len(k)
        moments = k.T @ k + scale * torch.eye(k.shape[1], dtype=torch.float64)
        return block.down.weight + torch.linalg.solve(moments, k.T @ lacking).T


@pytest.mark.parametrize("out", [[2], [2, 3], [4]])
def test_the_layer_before_a_gap_is_the_least_squares_solution(out):
    model, plan, rows = tower(out)
    before = list(range(out[0]))
    # With a penalty that is next to nothing, how it is scaled does not matter.
    small = natsel.extract(model, plan)
    done = natsel.compensate(model, small, plan, [(rows,)], ridge=1e-9)
    wanted = by_hand(model, before, out, rows, 1e-9)
    found = small.blocks[before[-1]].down.weight.double()
    assert (found - wanted).norm() < 1e-3 * wanted.norm()
    assert [line.gap for line in done.consumers] == [f"blocks.{out[-1]}.down"]
    assert done.tensors == (f"blocks.{before[-1]}.down.weight",)
    assert "1 of 1 where a stream has gaps" in done.summary()


def test_two_gaps_are_bridged_one_after_the_other_and_what_comes_out_is_nearer():
    model, plan, rows = tower([1, 3])
    plain = natsel.extract(model, plan)
    small = natsel.extract(model, plan, data=[(rows[:200],), (rows[200:300],)], compensate=True)
    assert len(small.blocks) == 3
    fresh = torch.randn(200, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        apart = [(m(fresh) - model(fresh)).square().mean() for m in (plain, small)]
    assert apart[1] < 0.5 * apart[0]
    for block, number in ((small.blocks[1], 2), (small.blocks[2], 4)):
        same = torch.equal(block.down.weight, model.blocks[number].down.weight)
        assert same == (number == 4)


def test_nobody_is_before_the_first_branch():
    model, plan, rows = tower([0])
    small = natsel.extract(model, plan, data=[(rows,)], compensate=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(small.parameters(), list(model.first.parameters()), strict=False)
    )


def language_model(which):
    torch.manual_seed(0)
    if which == "llama":
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads))
    else:
        model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=4, n_head=2, vocab_size=64))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    ids = torch.randint(0, 64, (12, 16), generator=torch.Generator().manual_seed(1))
    return model.eval(), [{"input_ids": row[None]} for row in ids]


@pytest.mark.parametrize("which", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("depth", "out"), [("blocks", [1, 2]), (True, [3]), (True, [4]), (True, [3, 4, 5])]
)
def test_streams_of_language_models_come_nearer_behind_the_gap(which, depth, out):
    model, batches = language_model(which)
    found = natsel.discover(model, batches[0], branches=depth).only("branch")
    (name,) = found
    mask = torch.ones(found[name].size, dtype=torch.bool)
    mask[out] = False
    plan = natsel.Survivors({name: mask}, found)
    plain = natsel.extract(model, plan)
    small = natsel.extract(model, plan)
    done = natsel.compensate(model, small, plan, batches, ridge=1.0)
    (line,) = done.consumers
    assert line.gap
    assert not line.reason
    assert line.error_fitted < line.error_before
    differing = [
        n
        for (n, a), b in zip(plain.named_parameters(), small.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    bias = {"llama": 0, "gpt2": 1}[which]
    assert len(differing) == 1 + bias


def test_a_command_that_shares_weights_changes_none_of_the_dense_model():
    model, batches = language_model("llama")
    before = {n: p.clone() for n, p in model.named_parameters()}
    found = natsel.discover(model, batches[0], branches="blocks").only("branch")
    plan = natsel.Survivors({n: torch.tensor([True, False, True, True]) for n in found}, found)
    small = extracted(model, plan, found, batches=batches, share=True)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    ours, theirs = small.model.layers[0].mlp, model.model.layers[0].mlp
    assert ours.up_proj.weight is theirs.up_proj.weight
    assert not torch.equal(ours.down_proj.weight, theirs.down_proj.weight)
