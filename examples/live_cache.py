"""A decoder forgets while it reads: entries of its key/value cache compete under a budget.

Prints what each method holds of a prompt, that a thinned cache computes what the whole one does
with the same entries hidden, and a method of one's own. Any decoder of transformers will do.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import natsel
from natsel.live_populations import prove

torch.manual_seed(0)
sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
prompt = torch.randint(64, (1, 48))


def loudest_value(entries):
    """Keep what would be heard: values of a large norm."""
    return entries.values.norm(dim=-1)


for method in ("snapkv", "h2o", loudest_value):
    with natsel.live(model, method, natsel.Sparsity(0.75)) as handle:
        model.generate(prompt, max_new_tokens=16, do_sample=False)
    print(handle)

with natsel.live(model, "evolution", natsel.Held(24), dynamics="replicator", rate=0.1) as evolved:
    model.generate(prompt, max_new_tokens=16, do_sample=False)
print(f"under the replicator the heads hold {evolved.held(0)[0].tolist()} of 63 entries")

verdict = prove(model, "snapkv", natsel.Sparsity(0.75), prompt)
print(verdict)

assert handle.num_bytes / handle.num_bytes_whole < 0.26
assert verdict.passed
assert model.generate(prompt, max_new_tokens=1).shape == (1, 49)  # and the model is as it was
