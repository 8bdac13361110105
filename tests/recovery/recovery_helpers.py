"""A tiny language model, and a smaller one that was cut from it."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import natsel

WORDS = 40


@cache
def pair():
    """Return a teacher, a small model and windows of tokens; none may be changed."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=WORDS,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    teacher = transformers.LlamaForCausalLM(config).eval()
    tokens = torch.randint(0, WORDS, (24, 8), generator=torch.Generator().manual_seed(1))
    pruned = natsel.prune(teacher, {"input_ids": tokens[:1]}, natsel.Sparsity(0.4), verify=False)
    return teacher, pruned.small, tokens


def batches(tokens, labels=True):
    """Return tokens in two batches."""
    names = ("input_ids", "labels") if labels else ("input_ids",)
    return [dict.fromkeys(names, part) for part in torch.split(tokens, 13)]


def same_bits(one, other):
    """Say whether two models hold the same numbers under the same names."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)
