"""A tiny model in several files, for what is pruned from folder to folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="package")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in three files."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        max_position_embeddings=32,
    )
    folder = tmp_path_factory.mktemp("dense")
    transformers.LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="9KB")
    assert len(list(folder.glob("model-*.safetensors"))) >= 3
    return folder
