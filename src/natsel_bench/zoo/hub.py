"""Small networks of the transformers library, from configurations; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.extras import require

Network = tuple[nn.Module, tuple[Tensor, ...]]
VOCABULARY = 100


def _build(name: str, config: str, **options: Any) -> nn.Module:
    library = require("transformers", "transformers")
    model: nn.Module = getattr(library, name)(getattr(library, config)(**options))
    return model


def _tokens(length: int = 7) -> Tensor:
    return torch.randint(1, VOCABULARY, (2, length))


def vit() -> Network:
    """ViTForImageClassification."""
    model = _build(
        "ViTForImageClassification",
        "ViTConfig",
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        num_labels=10,
    )
    return model, (torch.randn(2, 3, 32, 32),)


def bert() -> Network:
    """BertForSequenceClassification."""
    model = _build(
        "BertForSequenceClassification",
        "BertConfig",
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        num_labels=3,
        max_position_embeddings=32,
    )
    return model, (_tokens(),)


def llama() -> Network:
    """LlamaForCausalLM: key/value heads with groups of query heads, SwiGLU."""
    model = _build(
        "LlamaForCausalLM",
        "LlamaConfig",
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=96,
        max_position_embeddings=32,
    )
    return model, (_tokens(),)


def mixtral() -> Network:
    """MixtralForCausalLM: experts with their rows of the router."""
    model = _build(
        "MixtralForCausalLM",
        "MixtralConfig",
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=64,
        num_local_experts=6,
        num_experts_per_tok=2,
        max_position_embeddings=32,
    )
    return model, (_tokens(),)


def gpt2() -> Network:
    """GPT2LMHeadModel: Conv1D layers, the embedding tied to the head."""
    model = _build(
        "GPT2LMHeadModel",
        "GPT2Config",
        vocab_size=VOCABULARY,
        n_embd=48,
        n_layer=2,
        n_head=4,
        n_positions=32,
        n_inner=96,
        bos_token_id=0,
        eos_token_id=0,
    )
    return model, (_tokens(),)


def t5() -> Network:
    """T5ForConditionalGeneration: encoder and decoder, cross-attention, relative positions."""
    model = _build(
        "T5ForConditionalGeneration",
        "T5Config",
        vocab_size=VOCABULARY,
        d_model=48,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return model, (_tokens(), torch.ones(2, 7, dtype=torch.long), _tokens(5))
