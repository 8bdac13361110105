"""Text models of the transformers library, from small configurations."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from natsel_bench.zoo.catalog.entry import Entry, tokens
from natsel_bench.zoo.catalog.libraries import transformers

VOCABULARY = 96


def build(model: str, config: str, options: dict[str, Any]) -> nn.Module:
    """Build a model of the library from a configuration.

    Args:
        model: name of its class.
        config: name of the class of its configuration.
        options: of the configuration.
    """
    library = transformers()
    made: nn.Module = getattr(library, model)(getattr(library, config)(**options))
    return made


_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
_GROUPED = _TEXT | {"num_key_value_heads": 2, "pad_token_id": 0}

_ENCODERS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("bert", "BertForSequenceClassification", "BertConfig", _TEXT),
)
_DECODERS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("llama", "LlamaForCausalLM", "LlamaConfig", _GROUPED),
    ("mixtral", "MixtralForCausalLM", "MixtralConfig", _GROUPED | {"num_local_experts": 4}),
)

ENTRIES = tuple(
    Entry(
        f"transformers/{name}",
        partial(build, model, config, options),
        tokens(VOCABULARY),
        generates=generates,
    )
    for family, generates in ((_ENCODERS, False), (_DECODERS, True))
    for name, model, config, options in family
)
