"""Tiny language models of several families, each with a tokenizer of its own words."""

from __future__ import annotations

import functools

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

NUM_WORDS = 40
SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
_SIZES = {
    **{"vocab_size": NUM_WORDS, "hidden_size": 32, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48},
    **{"max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
}
FAMILIES = {
    "llama": ("LlamaForCausalLM", _SIZES),
    "llama-tied": ("LlamaForCausalLM", {**_SIZES, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", _SIZES),
    "gpt2": (
        "GPT2LMHeadModel",
        {
            **{"vocab_size": NUM_WORDS, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
            **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
        },
    ),
}


def dense_model(family="llama", seed=0):
    name, sizes = FAMILIES[family]
    kind = getattr(transformers, name)
    torch.manual_seed(seed)
    model = kind(kind.config_class(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # louder, so that what is generated varies
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return model


def tokenizer_of(num_words=NUM_WORDS):
    words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), num_words))]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
        model_max_length=64,
    )


def write_dense(folder, family="llama"):
    model = dense_model(family)
    model.generation_config.max_new_tokens = 9
    model.save_pretrained(folder)
    tokenizer_of().save_pretrained(folder)
    return folder


@functools.cache
def ids():
    return torch.randint(4, NUM_WORDS, (2, 7), generator=torch.Generator().manual_seed(0))
