"""A tiny language model whose best depth is known by brute force, and a small perceptron."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import natsel

TOKENS = torch.randint(3, 50, (6, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def llama() -> natsel.Communities:
    """Four blocks, eight branches, each of which shows."""
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
            bos_token_id=0,
            eos_token_id=None,
            pad_token_id=1,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return natsel.discover(model, {"input_ids": TOKENS[:1]}, branches=True)


@pytest.fixture(scope="session")
def perceptron() -> natsel.Communities:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 5)
    )
    return natsel.discover(model, torch.zeros(1, 6))


@pytest.fixture(scope="session")
def windows() -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": x[None]} for x in TOKENS[:3]]


@pytest.fixture(scope="session")
def others() -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": x[None]} for x in TOKENS[3:]]
