"""Prune a language model and let it recover: perplexity before and after, with intervals.

Prints what pruning cost on text that nothing was chosen or learned on, and what recovery won back.
The model is a small GPT-2 that learns a made-up language here, byte by byte.
"""

import random

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import natsel

torch.manual_seed(0)
draw = random.Random(0)  # noqa: S311
people, deeds, things = ("ann", "bob", "eve", "tom"), ("sees", "has", "likes"), ("cats", "tea")
lines = [f"{draw.choice(people)} {draw.choice(deeds)} {draw.choice(things)}." for _ in range(4000)]
tokens = torch.tensor(list(" ".join(lines).encode()))
windows = tokens[: len(tokens) // 32 * 32].view(-1, 32)
training, calibration, held_out = windows[:-80], windows[-80:-40], windows[-40:]

sizes = {"vocab_size": 128, "n_positions": 32, "n_embd": 48, "n_layer": 2, "n_head": 4}
dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
config = GPT2Config(**sizes, **dropout, bos_token_id=0, eos_token_id=0)
model = GPT2LMHeadModel(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(150):
    batch = training[torch.randint(len(training), (32,))]
    model(input_ids=batch, labels=batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def batches(windows):
    """Return windows as a loader of the transformers library yields them."""
    return [{"input_ids": part, "labels": part} for part in windows.split(8)]


pruned = natsel.prune(
    model.eval(),
    {"input_ids": calibration[:2]},
    natsel.Parameters(0.3),
    data=batches(calibration),
    held_out=batches(held_out),
)
print(pruned.cost)
print(f"pruned: {pruned.quality.summary()}")

recovered = natsel.recover(
    pruned.small, model, data=batches(training), steps=60, batch=32, learning_rate=1e-3
)
after = natsel.evaluate(recovered.model, batches(held_out), against=model)
print(f"recovered: {after.summary()}")

assert pruned.verification.passed
assert after.ratio < pruned.quality.ratio
