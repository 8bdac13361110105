"""A tiny model in several files, for what is pruned from folder to folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from natsel.communities.tensors import all_tensors
from natsel.streaming import found


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


@pytest.fixture(scope="package", autouse=True)
def _found_once() -> Iterator[None]:
    """Communities of models with the same tensors are found once: a run that goes on asks again."""
    held: dict[Any, Any] = {}
    real = found.discover

    def once(model: nn.Module, inputs: Any, **options: Any) -> Any:
        tensors = all_tensors(model).items()
        told = [(n, tuple(t.shape), t.dtype, t.device) for n, t in tensors]
        kinds = [type(m) for m in model.modules()]
        key = (*kinds, *told, *(tuple(x.shape) for x in tree_leaves(inputs)), *options.items())
        if key not in held:
            held[key] = real(model, inputs, **options)
        return held[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found, "discover", once)
        yield
