"""Dimensions inside heads, and query heads of groups, from the command line."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM


def _folder(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=24, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=6, num_key_value_heads=2, head_dim=4, max_position_embeddings=32,
        bos_token_id=1, eos_token_id=31, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("query head", (2, 2, 4)),
        # Rotary frequencies follow from the width, so that only a plan can say which are left.
        pytest.param("dimension", (6, 2, 4), marks=pytest.mark.slow),
    ],
)
def test_what_is_inside_heads_is_cut_and_verified(natsel, tmp_path, kind, numbers):
    dense, out = _folder(tmp_path), tmp_path / "small"
    options = ("--budget", "sparsity=0.5", "--kinds", kind, "--out", out, "--no-measure")
    told = natsel("prune", dense, *options)
    assert told.exit_code == 0, told.output
    config = json.loads((out / "config.json").read_text())
    names = ("num_attention_heads", "num_key_value_heads", "head_dim")
    assert tuple(config[name] for name in names) == numbers
    told = natsel("verify", dense, out)
    assert told.exit_code == 0, told.output
    assert "random inputs: equal" in told.stdout


def test_what_is_offered_inside_heads(natsel, tmp_path):
    dense = _folder(tmp_path)
    for option, kind in (("--query-heads", "query head"), ("--dims", "dimension")):
        told = natsel("inspect", dense, option, "--json")
        kinds = {c["kind"] for c in json.loads(told.stdout)["communities"]}
        assert kinds == {"neuron", kind}
