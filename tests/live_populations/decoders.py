"""Tiny random decoders of each family, and prompts."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "pad_token_id": 0}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 32}
HALF_SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None}

FAMILIES = {
    "llama": ("Llama", {**SIZES, **GROUPED}),
    "llama-eager": ("Llama", {**SIZES, **GROUPED, "attn_implementation": "eager"}),
    "qwen3": ("Qwen3", {**SIZES, **GROUPED, "head_dim": 8}),
    "gemma": ("Gemma", {**SIZES, **GROUPED, "head_dim": 8}),
    "gemma2": (
        "Gemma2",
        {**SIZES, **GROUPED, "head_dim": 8, **HALF_SLIDING, "attn_implementation": "eager"},
    ),
    "gemma3": ("Gemma3", {**SIZES, **GROUPED, "head_dim": 8, **HALF_SLIDING}),
    "gpt2": ("GPT2", {"vocab_size": 64, "n_embd": 32, "n_head": 4, **NO_TOKENS}),
    "mistral": ("Mistral", {**SIZES, **GROUPED, "sliding_window": None}),
    "phi": ("Phi", {**SIZES, **GROUPED}),
    "phi3": ("Phi3", {**SIZES, **GROUPED, **NO_TOKENS}),
    "neox": ("GPTNeoX", {**SIZES, "intermediate_size": 32}),
    "mixtral": ("Mixtral", {**SIZES, **GROUPED, "num_local_experts": 4}),
    "opt": ("OPT", {**SIZES, "ffn_dim": 32}),
}


def decoder(family="gpt2", num_layers=2, **options):
    """Return a decoder in evaluation mode, the same every time."""
    name, sizes = FAMILIES[family]
    layers = "n_layer" if family == "gpt2" else "num_hidden_layers"
    suffix = {"GPT2": "LMHeadModel"}.get(name, "ForCausalLM")
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    torch.manual_seed(0)
    made = getattr(transformers, name + suffix)(config(**{**sizes, layers: num_layers, **options}))
    return made.eval()


def prompts(rows=2, tokens=20, seed=1):
    return torch.randint(1, 63, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def padded(rows=2, tokens=20, padding=7):
    """Return prompts of which the last is padded on the left, and their mask."""
    ids = prompts(rows, tokens)
    mask = torch.ones_like(ids)
    mask[-1, :padding] = 0
    return ids * mask, mask
