"""Heads that are told apart by slopes which code computes from their number (ALiBi)."""

import copy

import pytest
import torch
import transformers
from torch import nn

import natsel
from natsel.communities.programs.rows import NAME

SIZES = {"vocab_size": 32, "hidden_size": 24}


def bloom():
    config = transformers.BloomConfig(**SIZES, n_layer=2, n_head=6)  # no power of two
    return transformers.BloomForCausalLM(config), "transformer.h.{}.self_attention.dense"


def mpt():
    config = transformers.MptConfig(
        vocab_size=32, d_model=24, n_layers=2, n_heads=6, max_seq_len=16, expansion_ratio=1
    )
    return transformers.MptForCausalLM(config), "transformer.blocks.{}.attn.out_proj"


def falcon():
    config = transformers.FalconConfig(
        **SIZES, num_hidden_layers=2, num_attention_heads=6, alibi=True, multi_query=False,
        new_decoder_architecture=False,
    )  # fmt: skip
    return transformers.FalconForCausalLM(config), "transformer.h.{}.self_attention.dense"


@pytest.mark.parametrize(
    "make", [bloom, *(pytest.param(f, marks=pytest.mark.slow) for f in (mpt, falcon))]
)
def test_each_layer_keeps_the_slopes_of_its_own_heads(make, tmp_path):
    torch.manual_seed(0)
    model, path = make()
    for parameter in model.eval().parameters():
        nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(1, 32, (2, 5))
    assert {c.kind for c in natsel.discover(model, ids).values()} == {"neuron"}
    program = natsel.as_program(model, ids)
    communities = natsel.discover(program, ids)
    heads = [c for c in communities.values() if c.kind == "head"]
    assert [c.size for c in heads] == [6, 6]
    gone = [[1, 4], [0, 2, 3]]
    masks = {}
    masked = copy.deepcopy(model)
    for number, (community, dead) in enumerate(zip(heads, gone, strict=True)):
        masks[community.name] = torch.ones(6, dtype=torch.bool)
        masks[community.name][dead] = False
        columns = torch.tensor([4 * head + i for head in dead for i in range(4)])
        masked.get_submodule(path.format(number)).weight.data[:, columns] = 0
    small = natsel.extract(program, natsel.Survivors(masks, communities))
    # The first rows of both layers are those of the heads that are left, not of fewer heads.
    rows = [dict(small.named_buffers())[NAME.format(i)] for i in range(2)]
    dense = dict(program.named_buffers())[NAME.format(0)].flatten()
    for row, dead in zip(rows, gone, strict=True):
        assert row.flatten().tolist() == [v for i, v in enumerate(dense.tolist()) if i not in dead]
    other = torch.randint(1, 32, (3, 5))
    with torch.no_grad():
        torch.testing.assert_close(small(other).logits, masked(other).logits)
    natsel.save(small, tmp_path)
    back = natsel.load(tmp_path, model=program)
    assert torch.equal(back(ids).logits, small(ids).logits)


def test_what_no_row_is_needed_for_gets_none():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    program = natsel.as_program(model, torch.zeros(1, 4))
    assert not list(program.buffers())
