"""Small language models of other families, trained in minutes on a text that is at hand.

Nothing should be tuned to one model: what a default gives is measured on these, too.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.extras import require
from natsel.integrations.transformers.library import without_bars

SMALL_GPT2 = "small-gpt2"
SMALL_MIXTRAL = "small-mixtral"
WORDS = 256
"""Tokens are the bytes of the text."""
STEPS = 1200
"""Of training: minutes on a core."""
BALANCE = 0.02
"""Weight of the loss that balances the load of experts, as Mixtral was trained with."""


def byte_tokens(text: str) -> Tensor:
    """Return the bytes of a text as tokens.

    Example:
        >>> byte_tokens("ab")
        tensor([97, 98])
    """
    return torch.tensor(list(text.encode()), dtype=torch.int64)


def windows(tokens: Tensor, length: int, count: int, *, from_end: bool = False) -> Tensor:
    """Return windows of tokens that follow each other, ``[count, length]``.

    Args:
        tokens: ``[n]``.
        length: of a window.
        count: how many.
        from_end: take the last ones of the text, not the first.

    Example:
        >>> windows(torch.arange(7), 2, 2), windows(torch.arange(7), 2, 2, from_end=True)
        (tensor([[0, 1],
                [2, 3]]), tensor([[3, 4],
                [5, 6]]))
    """
    part = tokens[len(tokens) - length * count :] if from_end else tokens[: length * count]
    return part.reshape(count, length)


def byte_tokenizer() -> Any:
    """Return a tokenizer of the transformers library that gives each byte its own number.

    Example:
        >>> byte_tokenizer()("ab").input_ids, byte_tokenizer().decode([97, 98])
        ([97, 98], 'ab')
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    library: Any = require("transformers", "transformers")
    tables: Any = require("transformers.convert_slow_tokenizer", "transformers")
    characters = tables.bytes_to_unicode()
    numbers = {character: byte for byte, character in characters.items()}
    found = Tokenizer(models.BPE(numbers, []))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found.decoder = decoders.ByteLevel()
    return library.PreTrainedTokenizerFast(tokenizer_object=found, eos_token=characters[0])


def prepared(
    folder: Path,
    text: str,
    *,
    length: int,
    steps: int = STEPS,
    seed: int = 0,
    build: Callable[..., Any] | None = None,
) -> Path:
    """Return a folder with a small model and its tokenizer; it is trained unless it is there.

    Args:
        folder: of the model; it is there whole or not at all.
        text: to train on.
        length: of its windows: the positions that the model knows.
        steps: of training.
        seed: of its first weights and of the windows.
        build: makes the untrained model from ``length`` and ``seed``; by default a small GPT-2.
    """
    if folder.is_dir():
        return folder
    model = (build or small_gpt2)(length=length, seed=seed)
    train(model, byte_tokens(text), steps=steps, length=length, seed=seed)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made, without_bars():
        model.save_pretrained(made)
        byte_tokenizer().save_pretrained(made)
        os.replace(made, folder)
        Path(made).mkdir()  # which is taken away now
    return folder


def small_gpt2(
    *,
    layers: int = 4,
    width: int = 128,
    inner: int = 256,
    heads: int = 4,
    length: int = 128,
    seed: int = 0,
) -> Any:
    """Return an untrained GPT-2 of the transformers library that reads bytes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=WORDS,
        n_positions=length,
        n_embd=width,
        n_inner=inner,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


def small_mixtral(
    *,
    layers: int = 2,
    width: int = 128,
    inner: int = 64,
    heads: int = 4,
    experts: int = 16,
    chosen: int = 4,
    length: int = 128,
    seed: int = 0,
) -> Any:
    """Return an untrained Mixtral of the transformers library that reads bytes.

    Its experts are small and many, and it is trained with the loss that balances their load.
    """
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(seed)
    config = MixtralConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        num_local_experts=experts,
        num_experts_per_tok=chosen,
        output_router_logits=True,
        router_aux_loss_coef=BALANCE,
        max_position_embeddings=length,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    return MixtralForCausalLM(config)


def train(
    model: nn.Module,
    tokens: Tensor,
    *,
    steps: int = STEPS,
    batch_size: int = 8,
    length: int = 128,
    rate: float = 2e-3,
    seed: int = 0,
) -> list[float]:
    """Train a causal language model on random windows of some tokens.

    AdamW with a cosine from the full rate to nothing, after a warm-up of a twentieth of the steps.
    Where the model tells how evenly its experts are chosen, that loss is added.

    Args:
        model: takes tokens ``[B, T]`` and returns logits.
        tokens: ``[n]``.
        steps: how many batches.
        batch_size: windows in each.
        length: of a window.
        rate: the largest learning rate.
        seed: of the windows.

    Returns:
        The loss of each step.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1)
    warm = max(1, steps // 20)

    def share(step: int) -> float:
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    model.train()
    found = []
    for _ in range(steps):
        starts = torch.randint(len(tokens) - length, (batch_size,), generator=generator)
        x = torch.stack([tokens[s : s + length + 1] for s in starts.tolist()])
        output = model(x[:, :-1])
        loss = F.cross_entropy(output.logits.flatten(0, 1), x[:, 1:].flatten())
        found.append(float(loss.detach()))
        if (balance := getattr(output, "aux_loss", None)) is not None:
            loss = loss + BALANCE * balance
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    return found
