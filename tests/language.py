"""A tiny language model with a tokenizer of words, in a folder, and texts for it."""

from __future__ import annotations

import random
from pathlib import Path

import torch

WORDS = [f"w{number}" for number in range(60)]


def text(seed: int, num_words: int) -> str:
    """Return words at random, some more often than others."""
    draw = random.Random(seed)
    return " ".join(draw.choices(WORDS, weights=range(1, 61), k=num_words))


def tokenizer():
    """Return a fast tokenizer of whole words; its number 0 ends a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<end>", "<unk>", *WORDS])}
    found = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=found, eos_token="<end>", unk_token="<unk>")


def llama(seed: int = 0):
    """Return a random Llama with two layers, of 62 words and 64 positions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=62,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():  # far from uniform, so that removing something shows
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(8)
    return model


def folder(path: Path) -> Path:
    """Save the model with its tokenizer."""
    llama().save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path
