"""A decoder made by hand that copies what followed a token before: what it answers is known."""

from __future__ import annotations

import torch

SHARP = 400.0


def induction(vocab=48, positions=96):
    """Return a GPT-2 of two layers that continues a token as it was continued before.

    The first layer writes to each token the one before it; the second looks for places where the
    token before is the present one, and copies what stands there. So the answer is right exactly
    if the second layer holds the entry of the answer. Where nobody matches, it copies a mean.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    width = 3 * vocab + positions
    config = GPT2Config(
        vocab_size=vocab,
        n_positions=positions,
        n_embd=width,
        n_layer=2,
        n_head=1,
        n_inner=1,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config).eval()
    token, place = slice(0, vocab), slice(vocab, vocab + positions)
    before, found = (slice(place.stop + i * vocab, place.stop + (i + 1) * vocab) for i in (0, 1))
    one, at = torch.eye(vocab), torch.eye(positions)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, parameter in model.named_parameters():
            if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")):
                parameter.fill_(1.0)
        model.transformer.wte.weight[:, token] = one
        model.transformer.wpe.weight[:, place] = at
        first, second = (block.attn for block in model.transformer.h)
        # Of a query: its place, moved to the one before; of a key: its place; of a value: a token.
        q, k, v = (slice(i * width, (i + 1) * width) for i in range(3))
        first.c_attn.weight[place, q][1:, : positions - 1] = SHARP * at[1:, 1:]
        first.c_attn.weight[place, k][:, :positions] = at
        first.c_attn.weight[token, v][:, before] = one
        second.c_attn.weight[token, q][:, :vocab] = SHARP * one
        second.c_attn.weight[before, k][:, :vocab] = one
        second.c_attn.weight[token, v][:, found] = one
        for attention in (first, second):
            attention.c_proj.weight.copy_(torch.eye(width))
        model.lm_head.weight[:, found] = one
    return model
