"""Prune a model of the transformers library and save it: ``from_pretrained`` reads the folder.

Prints the sizes before and after, as the configuration states them, and what lies in the folder.
The model is small and random here; ``natsel.open_model("hf:NAME")`` opens one of the hub.
"""

import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import natsel

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=97,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
)
model = LlamaForCausalLM(config).eval()
tokens = torch.randint(97, (2, 12))

communities = natsel.discover(model, (tokens,))
print(communities)

# Each community loses the same share, so the layers stay alike and the configuration can say it.
survivors = natsel.select(natsel.score(communities, "magnitude"), natsel.Sparsity(0.5))
small = natsel.extract(model, survivors)
for name in ("intermediate_size", "num_attention_heads", "num_key_value_heads"):
    print(f"{name}: {getattr(config, name)} -> {getattr(small.config, name)}")

with tempfile.TemporaryDirectory() as folder:
    small.save_pretrained(folder)
    files = sorted(path.name for path in Path(folder).iterdir())
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
print(", ".join(files))

assert small.config.intermediate_size == 64
assert not any(name.endswith(".py") for name in files)  # a plain folder, without code beside it
with torch.no_grad():
    assert torch.equal(loaded(tokens).logits, small(tokens).logits)
